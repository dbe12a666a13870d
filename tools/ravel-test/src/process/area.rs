// SPDX-License-Identifier: GPL-2.0
//! Memory to look at.

use anyhow::Result;

use crate::sys::{self, PAGE};

pub(super) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Writable private anonymous memory between two guard pages, so that it is one VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// Length.
    pub len: u64,
}

impl Area {
    /// Maps `pages` in the calling process.
    pub fn map(pages: usize) -> Result<Self> {
        let base = sys::map_anon((pages + 2) * PAGE, libc::PROT_NONE)?;
        sys::protect(base + PAGE, pages * PAGE, RW)?;
        Ok(Self {
            start: (base + PAGE) as u64,
            len: (pages * PAGE) as u64,
        })
    }

    /// Writes to every page, in the calling process.
    pub fn touch(&self) {
        (self.start..self.end())
            .step_by(PAGE)
            .for_each(|addr| sys::poke(addr as usize, 1));
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Some of its pages.
    pub fn pages(&self, first: u64, count: u64) -> Self {
        Self {
            start: self.start + first * PAGE as u64,
            len: count * PAGE as u64,
        }
    }
}

/// Where a huge page can begin.
pub const HUGE: usize = 512 * PAGE;

/// Maps an area at the beginning of a huge page, and none behind it.
pub(super) fn map_aligned(len: usize, flags: i32) -> Result<usize> {
    let base = sys::map_anon(len + 3 * HUGE, libc::PROT_NONE)?;
    let start = (base + 1).next_multiple_of(HUGE);
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    Ok(sys::map(start, len, RW, flags, None, 0)?)
}
