//! Measures the cost of a server that can restart itself, and the cost of a restart. `cargo bench --features cli` takes
//! about eight minutes, `cargo bench --features cli -- --quick` less than one. Arguments such as `throughput` or
//! `handover` select measurements.
//!
//! No figure makes the benchmark fail, but a lost request does. Builds and other programs share the machine, so the
//! runs of compared servers are interleaved, and the ratios within a run are the result.

#[path = "../tests/it/support/mod.rs"]
mod support;

/// The folder `restart/`. This file is the root of a crate, so the compiler does not look for modules in the folder of
/// the same name.
mod restart {
    pub(crate) mod figures;
    pub(crate) mod handover;
    pub(crate) mod latency;
    pub(crate) mod memory;
    pub(crate) mod process;
    pub(crate) mod servers;
    pub(crate) mod throughput;
}

use restart::{handover, latency, memory, process, servers, throughput};
use std::process::ExitCode;
use std::time::Instant;

/// The extent of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Full,
    Quick,
}

impl Extent {
    pub(crate) fn choose<T>(self, full: T, quick: T) -> T {
        match self {
            Extent::Full => full,
            Extent::Quick => quick,
        }
    }
}

type Section = (&'static str, fn(Extent));

const SECTIONS: [Section; 4] = [
    ("throughput", throughput::measure),
    ("handover", handover::measure),
    ("latency", latency::measure),
    ("memory", memory::measure),
];

fn main() -> ExitCode {
    if let Some(kind) = servers::Kind::asked_for() {
        servers::run(kind);
        return ExitCode::SUCCESS;
    }
    let (mut extent, mut chosen) = (Extent::Full, Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            // Cargo passes this argument.
            "--bench" => {}
            "--quick" => extent = Extent::Quick,
            word if SECTIONS.iter().any(|(name, _)| *name == word) => chosen.push(argument),
            _ => {
                let names = SECTIONS.map(|(name, _)| name).join(" ");
                eprintln!("{argument}: unknown; --quick, or any of: {names}");
                return ExitCode::from(64);
            }
        }
    }
    let begun = Instant::now();
    process::raise_descriptor_limit();
    println!("{}", process::machine());
    for (name, measure) in SECTIONS {
        if chosen.is_empty() || chosen.iter().any(|word| word == name) {
            println!();
            measure(extent);
        }
    }
    println!("\n{} s; no request was lost", begun.elapsed().as_secs());
    ExitCode::SUCCESS
}
