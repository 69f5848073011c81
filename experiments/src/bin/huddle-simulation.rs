//! Prints the results of the closed loop on thousands of synthetic hosts, beside those of a rule that uses one
//! block only.

use std::time::Instant;

use clap::Parser;
use huddle_experiments::simulation::{
    budget, follow, kept_with_effect, kept_without_difference, one_block_rule,
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
}

#[allow(clippy::print_stdout, reason = "what it finds is printed")]
fn main() {
    let Args { worlds, seed } = Args::parse();
    let began = Instant::now();
    let noise = 0.05;
    println!("{worlds} hosts a line, noise {:.0} % a window, seed {seed}", noise * 100.0);
    println!("{:<52} {:>8} {:>14} {:>8}", "", "loop", "one block", "limit");
    let line = |what: &str, share: f64, baseline: Option<f64>, limit: &str| {
        let baseline = baseline.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
        println!("{what:<52} {:>6.1} % {baseline:>14} {limit:>8}", share * 100.0);
    };
    let none = kept_without_difference(worlds, noise, seed);
    let naive = one_block_rule(worlds, 0.0, noise, seed);
    line("no true difference: change kept", none.value(), Some(naive.value()), "<= 5 %");
    for effect in [0.05, 0.1, 0.2] {
        let (share, blocks) = kept_with_effect(worlds, effect, noise, seed);
        let naive = one_block_rule(worlds, effect, noise, seed);
        let what = format!("true effect {:.0} %: kept (after {blocks:.1} blocks)", effect * 100.0);
        let limit = if effect == 0.1 { ">= 90 %" } else { "" };
        line(&what, share.value(), Some(naive.value()), limit);
    }
    for effect in [0.1, 0.3] {
        let followed = follow(worlds.div_ceil(4), effect, noise, seed);
        let what = format!(
            "best placement changes, effect {:.0} %: two passes (most {})",
            effect * 100.0,
            followed.most_passes
        );
        line(&what, followed.in_time.value(), None, "");
    }
    let part = budget(worlds.div_ceil(100), 120, 6, seed);
    line("most moves in any hour, of the budget", part, None, "<= 100 %");
    println!("simulated in {:.1} s", began.elapsed().as_secs_f64());
}
