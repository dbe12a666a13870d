// SPDX-License-Identifier: GPL-2.0

//! Sets of process ids.

use crate::object::gfp;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// A set of process ids.
pub(crate) struct Pids(KVVec<Atomic<u64>>);

impl Pids {
    /// Bytes that it takes.
    pub(crate) const SIZE: usize = super::PID_MAX as usize / 8;

    /// An empty set.
    pub(crate) fn new() -> Result<Self> {
        let words = Self::SIZE / 8;
        let mut set = KVVec::with_capacity(words, gfp())?;
        for _ in 0..words {
            set.push(Atomic::new(0), gfp())?;
        }
        Ok(Self(set))
    }

    pub(in crate::object) fn has(&self, pid: u32) -> bool {
        self.0
            .get(pid as usize / 64)
            .is_some_and(|word| word.load(Relaxed) >> (pid % 64) & 1 == 1)
    }

    /// Puts a process in, or takes it out.
    pub(crate) fn set(&self, pid: u32, member: bool) {
        let Some(word) = self.0.get(pid as usize / 64) else {
            return;
        };
        let bit = 1 << (pid % 64);
        let mut old = word.load(Relaxed);
        loop {
            let new = if member { old | bit } else { old & !bit };
            // Not for long: others change it for their own bits, once each.
            match word.cmpxchg(old, new, Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
    }
}
