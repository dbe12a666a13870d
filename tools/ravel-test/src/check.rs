// SPDX-License-Identifier: GPL-2.0
//! Assertions that end a test with what was found and what was wanted.

/// Fails unless both are equal; what follows says what was compared.
#[macro_export]
macro_rules! check_eq {
    ($got:expr, $want:expr, $($what:tt)+) => {
        match (&$got, &$want) {
            (got, want) if *got != *want => {
                anyhow::bail!("{}: {:?}, wanted {:?}", format_args!($($what)+), got, want)
            }
            _ => {}
        }
    };
}

/// Fails unless the condition holds; what follows says what is wrong.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            anyhow::bail!($($what)+);
        }
    };
}
