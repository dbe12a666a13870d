// SPDX-License-Identifier: GPL-2.0
//! What /proc says of pages: pagemap, kpagecount, kpageflags and smaps, to compare reports with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

use crate::sys::{PAGE, Pid};

/// Bits of a frame's flags, from `linux/kernel-page-flags.h`.
pub mod kpf {
    /// Its content is valid.
    pub const UPTODATE: u64 = 1 << 3;
    /// It differs from what is on disk.
    pub const DIRTY: u64 = 1 << 4;
    /// Anonymous.
    pub const ANON: u64 = 1 << 12;
    /// It can go to swap.
    pub const SWAPBACKED: u64 = 1 << 14;
    /// The first of a compound page, or another of it.
    pub const COMPOUND: u64 = (1 << 15) | (1 << 16);
    /// Merged by KSM.
    pub const KSM: u64 = 1 << 21;
    /// The zero page.
    pub const ZERO: u64 = 1 << 24;
}

/// An entry of pagemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// A page is there.
    pub fn present(self) -> bool {
        self.0 >> 63 == 1
    }

    /// A swap entry, or anything else that is neither empty nor present.
    pub fn swapped(self) -> bool {
        (self.0 >> 62) & 1 == 1
    }

    /// No page, but a mark: a guard region, or userfaultfd's (`SWP_PTE_MARKER`).
    pub fn marker(self) -> bool {
        self.swapped() && self.swap().0 == 31
    }

    /// userfaultfd's write protection.
    pub fn write_protected(self) -> bool {
        (self.0 >> 57) & 1 == 1
    }

    /// A guard region.
    pub fn guard(self) -> bool {
        (self.0 >> 58) & 1 == 1
    }

    /// Mapped by one entry alone.
    pub fn exclusive(self) -> bool {
        (self.0 >> 56) & 1 == 1
    }

    /// A page is there that is no file's, nor shared memory's.
    pub fn anonymous(self) -> bool {
        self.present() && (self.0 >> 61) & 1 == 0
    }

    /// Neither.
    pub fn empty(self) -> bool {
        !self.present() && !self.swapped()
    }

    /// The page frame.
    pub fn pfn(self) -> u64 {
        self.0 & ((1 << 55) - 1)
    }

    /// The swap device and the slot.
    pub fn swap(self) -> (u64, u64) {
        (self.0 & 0x1f, (self.0 & ((1 << 55) - 1)) >> 5)
    }
}

/// The entries of some addresses of a process.
pub fn entries(pid: Pid, start: u64, end: u64) -> Result<Vec<Entry>> {
    let file = File::open(format!("/proc/{pid}/pagemap")).context("open pagemap")?;
    let first = start / PAGE as u64;
    let mut bytes = vec![0; (end.div_ceil(PAGE as u64) - first) as usize * 8];
    file.read_exact_at(&mut bytes, first * 8)
        .context("read pagemap")?;
    Ok(bytes
        .chunks_exact(8)
        .map(|word| Entry(u64::from_ne_bytes(word.try_into().unwrap_or_default())))
        .collect())
}

/// What the kernel tells of page frames.
pub struct Frames {
    counts: File,
    flags: File,
}

impl Frames {
    /// Opens the files.
    pub fn open() -> Result<Self> {
        Ok(Self {
            counts: File::open("/proc/kpagecount").context("open kpagecount")?,
            flags: File::open("/proc/kpageflags").context("open kpageflags")?,
        })
    }

    /// How often a frame is mapped.
    pub fn mapcount(&self, pfn: u64) -> Result<u64> {
        word(&self.counts, pfn)
    }

    /// A frame's flags.
    pub fn flags(&self, pfn: u64) -> Result<u64> {
        word(&self.flags, pfn)
    }
}

fn word(file: &File, at: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The numbers that smaps has of each mapping, in KiB, by the mapping's start.
pub fn smaps(pid: Pid) -> Result<BTreeMap<u64, BTreeMap<String, u64>>> {
    let text = fs::read(format!("/proc/{pid}/smaps"))?;
    let mut maps = BTreeMap::new();
    let mut start = 0;
    for line in String::from_utf8_lossy(&text).lines() {
        let Some((key, rest)) = line.split_once(':').filter(|(key, _)| !key.contains('-')) else {
            let (first, _) = line.split_once('-').context("no range")?;
            start = u64::from_str_radix(first, 16)?;
            maps.insert(start, BTreeMap::new());
            continue;
        };
        let number = rest.trim().trim_end_matches(" kB").parse();
        if let (Ok(number), Some(map)) = (number, maps.get_mut(&start)) {
            map.insert(key.to_owned(), number);
        }
    }
    Ok(maps)
}

/// Minor faults that a process took, and its pages in memory.
pub fn faults_and_rss(pid: Pid) -> Result<(u64, u64)> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
    let number = |at: usize| -> Result<u64> {
        let word = rest.split(' ').nth(at).context("stat is too short")?;
        Ok(word.parse()?)
    };
    Ok((number(7)?, number(21)?))
}
