//! Prints the results of the closed loop on thousands of synthetic hosts: how often a change is kept by chance in a
//! day, how often a true effect is found, and how often intervals contain the truth.

use std::time::Instant;

use clap::Parser;
use huddle_experiments::simulation::{
    Hosts, Noise, budget, day_without_effect, first_trials, follow, one_block_rule,
};

/// The closed loop on synthetic hosts with a known best placement
#[derive(Parser)]
struct Args {
    /// Hosts for each figure
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    worlds: u32,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Standard deviation of the noise in a window of a second (0.05: 5 %)
    #[arg(long, default_value_t = 0.05)]
    deviation: f64,
    /// Only neighbours with a period, from 1 to 30 s
    #[arg(long, conflicts_with = "without_periods")]
    only_periods: bool,
    /// All but these
    #[arg(long)]
    without_periods: bool,
}

#[allow(clippy::print_stdout, reason = "what it finds is printed")]
fn main() {
    let Args { worlds, seed, deviation, only_periods, without_periods } = Args::parse();
    let began = Instant::now();
    let hosts = |effect, noise| Hosts { count: worlds, noise, effect, seed };
    let independent = Noise::Independent { deviation };
    let autoregressive = |correlation| Noise::Autoregressive { correlation, deviation };

    println!("{worlds} hosts a line, noise {:.0} % a window of 1 s, seed {seed}", deviation * 100.0);
    println!(
        "\nNo true effect, a day each      kept at least once (<= 5 %)  intervals with 0 (>= 94 %)  trials a host"
    );
    let mut kinds = Vec::new();
    if !only_periods {
        kinds.push(("independent".to_owned(), independent));
        kinds.extend([0.3, 0.5, 0.7, 0.9].map(|r| (format!("AR(1) {r}"), autoregressive(r))));
        kinds.push(("heavy-tailed (t, 2 d. f.)".to_owned(), Noise::HeavyTailed { deviation }));
    }
    if !without_periods {
        kinds.extend((1..=30).map(|period| {
            (format!("period {period} s"), Noise::Periodic { period_s: f64::from(period), depth: 0.2 })
        }));
    }
    for (name, noise) in kinds {
        let day = day_without_effect(&hosts(0.0, noise));
        println!(
            "{name:<32} {:>12.2} % {:>27.2} % {:>22.1}",
            day.kept.value() * 100.0,
            day.covered.value() * 100.0,
            f64::from(day.trials) / f64::from(day.kept.of)
        );
    }

    if only_periods {
        println!("simulated in {:.1} s", began.elapsed().as_secs_f64());
        return;
    }
    println!(
        "\nTrue effect                     kept within 30 blocks  after blocks  intervals with it  one block"
    );
    for (effect, name, noise, is_required) in [
        (0.05, "independent", independent, false),
        (0.1, "independent", independent, true),
        (0.1, "AR(1) 0.3", autoregressive(0.3), true),
        (0.1, "AR(1) 0.9", autoregressive(0.9), false),
        (0.2, "independent", independent, false),
    ] {
        let trials = first_trials(&hosts(effect, noise), 30);
        let one_block = one_block_rule(worlds, effect, deviation, seed);
        println!(
            "{:>3.0} %, {name:<24} {:>12.1} % {} {:>12.1} {:>16.2} % {:>8.1} %",
            effect * 100.0,
            trials.kept.value() * 100.0,
            if is_required { "(>= 90)" } else { "       " },
            trials.mean_blocks,
            trials.covered.value() * 100.0,
            one_block.value() * 100.0,
        );
    }

    println!();
    for effect in [0.1, 0.3] {
        let followed = follow(&Hosts { count: worlds.div_ceil(4), ..hosts(effect, independent) });
        println!(
            "best placement changes, effect {:.0} %: in force within two passes on {:.1} % (most {} passes)",
            effect * 100.0,
            followed.in_time.value() * 100.0,
            followed.most_passes
        );
    }
    let part = budget(&Hosts { count: worlds.div_ceil(100), ..hosts(0.2, independent) }, 200, 6);
    println!("most moves in any hour, of the budget: {:.0} % (<= 100 %)", part * 100.0);
    println!("simulated in {:.1} s", began.elapsed().as_secs_f64());
}
