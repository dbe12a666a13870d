// SPDX-License-Identifier: GPL-2.0
//! Assertions that end a test with what was found and what was wanted.

use std::fmt::Display;

use anyhow::{Result, bail};

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

/// Fails unless both texts are equal, and shows the first line in which they are not. How long a peer has been
/// silent may differ: one was read after the other.
pub fn same_text(got: &[u8], want: &[u8], what: impl Display) -> Result<()> {
    let (got, want) = (&timeless(got)[..], &timeless(want)[..]);
    if got == want {
        return Ok(());
    }
    let (got, want) = (String::from_utf8_lossy(got), String::from_utf8_lossy(want));
    let (mut gots, mut wants) = (got.lines(), want.lines());
    for at in 1.. {
        let pair = (gots.next(), wants.next());
        if pair.0 != pair.1 || pair.0.is_none() {
            bail!("{what}: line {at} is {:?}, wanted {:?}", pair.0, pair.1);
        }
    }
    Ok(())
}

fn timeless(text: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = b" silent_ms=";
    let mut kept = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(KEY.len()).position(|bytes| bytes == KEY) {
        let (before, after) = rest.split_at(at + KEY.len());
        kept.extend_from_slice(before);
        let digits = after.iter().take_while(|byte| byte.is_ascii_digit());
        rest = &after[digits.count()..];
    }
    kept.extend_from_slice(rest);
    kept
}
