// SPDX-License-Identifier: GPL-2.0
//! What kind of kernel the tests run on, and how much whoever started them asks for.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What only kernels have that check themselves.
const MARKS: &[&str] = &[
    "/sys/kernel/debug/kmemleak",
    "/sys/kernel/debug/kcsan",
    "/proc/lockdep",
];

/// Whether the kernel checks itself (KASAN, lockdep, KCSAN), and is slow for it: as RAVEL_TIER says
/// (`debug` or `stock`), or by what it has.
pub fn is_debug() -> bool {
    static DEBUG: OnceLock<bool> = OnceLock::new();
    *DEBUG.get_or_init(|| match std::env::var("RAVEL_TIER") {
        Ok(tier) if !tier.is_empty() => tier != "stock",
        _ => MARKS.iter().any(|mark| Path::new(mark).exists()),
    })
}

/// How much longer everything may take than on the stock kernel.
fn slowness() -> u64 {
    if is_debug() { 8 } else { 1 }
}

/// That many seconds of the stock kernel.
pub fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds * slowness())
}

/// How much to do: the first on the stock kernel, the second, smaller, where time or memory demands.
pub fn scale(stock: usize, debug: usize) -> usize {
    if is_debug() { debug } else { stock }
}

/// The variables that [`asked`] knows.
const NUMBERS: &[&str] = &[
    "RAVEL_CHURN_SECONDS",
    "RAVEL_FUZZ_N",
    "RAVEL_FUZZ_SEED",
    "RAVEL_PROOF_RUNS",
    "RAVEL_PROOF_SEED",
    "RAVEL_REMOVALS",
];

/// Returns what a variable such as RAVEL_FUZZ_N asks for; none where it is not set or empty.
pub fn asked(name: &str) -> Option<u64> {
    debug_assert!(NUMBERS.contains(&name), "{name} is not in the list");
    std::env::var(name).ok()?.parse().ok()
}

/// Fails where a variable asks for something that is not understood, and would be ignored.
pub fn check_variables() -> Result<()> {
    for (name, value) in std::env::vars().filter(|(_, value)| !value.is_empty()) {
        if NUMBERS.contains(&name.as_str()) {
            let number = value.parse::<u64>();
            number.with_context(|| format!("{name}={value} is not a number"))?;
        } else if name == "RAVEL_TIER" {
            ensure!(
                ["stock", "debug"].contains(&value.as_str()),
                "RAVEL_TIER={value} is neither stock nor debug"
            );
        }
    }
    Ok(())
}

/// How long everything moves in the tests that let it, in seconds.
pub fn churn_seconds() -> u64 {
    asked("RAVEL_CHURN_SECONDS").unwrap_or(CHURN_SECONDS)
}

/// How long everything moves in the tests of one report: churn_seconds() are for all of them at once.
pub fn moving() -> Duration {
    Duration::from_secs((churn_seconds() / 12).max(2))
}

/// How many inputs are made up.
pub fn fuzz_inputs() -> u64 {
    asked("RAVEL_FUZZ_N").unwrap_or(FUZZ_INPUTS)
}

/// How often the module is removed while all of it is in use.
pub fn removals() -> u64 {
    asked("RAVEL_REMOVALS").unwrap_or(scale(1000, 60) as u64)
}

/// How many runs the proof of delivery has.
pub fn proof_runs() -> u64 {
    asked("RAVEL_PROOF_RUNS").unwrap_or(5)
}

const CHURN_SECONDS: u64 = 60;
const FUZZ_INPUTS: u64 = 100_000;

/// Seconds until a test is killed. Who asks for more than usual gets the time for it.
pub fn limit(seconds: u64) -> u64 {
    if churn_seconds() > CHURN_SECONDS
        || fuzz_inputs() > FUZZ_INPUTS
        || asked("RAVEL_PROOF_RUNS").is_some()
    {
        24 * 3600
    } else {
        seconds * slowness()
    }
}
