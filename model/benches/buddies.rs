//! Accuracy and bytes of sketches, beside the Bloom filters of Memory Buddies (Wood et al., "Memory Buddies: Exploiting
//! Page Sharing for Smart Colocation in Virtualized Data Centers", VEE 2009), on the same generated pairs of VMs of 4 GiB
//! whose true containment is known.
//!
//! There, each VM has one filter of the hashes of all its pages, and what two VMs have in common is estimated from the bits
//! of both (Broder and Mitzenmacher, "Network Applications of Bloom Filters: A Survey", 2004, section 2.3): with `m` bits,
//! `k` hash functions, and `a`, `b` and `and` zero bits in the filters and in their bitwise AND,
//!
//! `common = (ln(a + b - and) + ln m - ln a - ln b) / (k (ln m - ln(m - 1)))`
//!
//! As many bits as fit the bytes of a sketch are all set, and say nothing. So filters of several sizes are shown, up to
//! ten bits for each content. All hashes are 64 bits; Memory Buddies has 32, which would be a further error.
//!
//! `cargo bench --package huddle-model --bench buddies -- [PAIRS]`
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark: failures panic, results are printed"
)]

use huddle_model::fleet::{FleetShape, GeneratedFleet, Scale, Sketch};

const RATES: [f64; 9] = [0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0];
/// Bytes and hash functions: about as small as a sketch, then up to ten bits for each of a million contents.
const FILTERS: [(usize, u32); 6] =
    [(8 << 10, 1), (64 << 10, 1), (128 << 10, 1), (256 << 10, 1), (640 << 10, 3), (1280 << 10, 7)];

struct Filter {
    words: Vec<u64>,
    functions: u32,
}

impl Filter {
    fn of(bytes: usize, functions: u32, hashes: &[u64]) -> Self {
        let bits = bytes as u64 * 8;
        let mut words = vec![0_u64; bytes / 8];
        for hash in hashes {
            // Two hashes make any number of them (Kirsch and Mitzenmacher, 2006).
            let (first, step) = (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15), hash.rotate_left(32) | 1);
            for function in 0..u64::from(functions) {
                let mixed = first.wrapping_add(function.wrapping_mul(step));
                let bit = ((u128::from(mixed) * u128::from(bits)) >> 64) as u64;
                words[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        Self { words, functions }
    }

    /// Estimate of the number of common contents; `None` if all bits of a filter are set.
    fn common(&self, other: &Self) -> Option<f64> {
        let bits = self.words.len() as f64 * 64.0;
        let zeros = |words: &mut dyn Iterator<Item = u64>| -> f64 {
            words.map(|word| f64::from(word.count_zeros())).sum()
        };
        let a = zeros(&mut self.words.iter().copied());
        let b = zeros(&mut other.words.iter().copied());
        let and = zeros(&mut self.words.iter().zip(&other.words).map(|(a, b)| a & b));
        let neither = a + b - and;
        if a == 0.0 || b == 0.0 || neither <= 0.0 {
            return None;
        }
        let one = f64::from(self.functions) * -(-1.0 / bits).ln_1p();
        Some((neither.ln() + bits.ln() - a.ln() - b.ln()) / one)
    }
}

/// Errors in percentage points.
#[derive(Default)]
struct Errors {
    squares: f64,
    most: f64,
    count: u32,
    none: u32,
}

impl Errors {
    fn add(&mut self, estimate: Option<f64>, truth: f64) {
        let Some(estimate) = estimate else {
            self.none += 1;
            return;
        };
        let error = 100.0 * (estimate - truth).abs();
        self.squares += error * error;
        self.most = self.most.max(error);
        self.count += 1;
    }

    fn text(&self) -> String {
        match self.count {
            0 => format!("{:>14}", "no estimate"),
            count => format!("{:>6.2} {:>7.2}", (self.squares / f64::from(count)).sqrt(), self.most),
        }
    }
}

fn main() {
    let pairs = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(10_u64);
    println!(
        "Containment of {pairs} pairs at each rate: root mean square and greatest error, in percentage points"
    );
    let names = FILTERS.map(|(bytes, functions)| format!("{:>9} KiB k={functions}", bytes >> 10));
    println!("{:>5} {:>14} {}", "rate", "sketch", names.join(" "));
    let mut kept = 0;
    for rate in RATES {
        let mut sketches = Errors::default();
        let mut filters = FILTERS.map(|_| Errors::default());
        for seed in 0..pairs {
            let contents = 1_024_000;
            let shape = FleetShape {
                seed: seed + (rate * 1e6) as u64,
                hosts: 1,
                vms_per_host: 2,
                application_vms: 2,
                contents,
                system_contents: 0,
                application_contents: (f64::from(contents) * rate) as u32,
                drift: 0.0,
                scale: Scale::new(1).unwrap(),
                ..FleetShape::default()
            };
            let fleet = GeneratedFleet::new(shape).unwrap();
            let truth = fleet.containment(0, 1);
            let hashes = [0, 1].map(|vm| fleet.sketch(vm));
            let [a, b] =
                [0, 1].map(|vm: usize| Sketch::of_hashes(Scale::DEFAULT, hashes[vm].iter().copied()));
            kept += a.hashes().len();
            sketches.add(a.containment_in(&b).map(|found| found.rate), truth);
            for ((bytes, functions), errors) in FILTERS.into_iter().zip(&mut filters) {
                let [a, b] = [0, 1].map(|vm: usize| Filter::of(bytes, functions, &hashes[vm]));
                errors.add(a.common(&b).map(|common| common / f64::from(contents)), truth);
            }
        }
        let filters = filters.map(|errors| errors.text());
        println!("{rate:>5} {:>14} {}", sketches.text(), filters.join(" "));
    }
    let bytes = 8 * kept as u64 / (pairs * RATES.len() as u64);
    println!(
        "A sketch has {bytes} bytes, a filter what is above it: {:.0} to {:.0} times as many",
        FILTERS[0].0 as f64 / bytes as f64,
        FILTERS[5].0 as f64 / bytes as f64
    );
}
