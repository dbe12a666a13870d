// SPDX-License-Identifier: GPL-2.0

//! Pages, of a process and of those that share them.

use crate::object::{
    gfp,
    memory::address_space::{LinkedVma, MemberVma},
    memory::anon_vma::AnonVma,
    memory::file_map::FileGuard,
    memory::page_table,
};
use core::ops::Range;
use kernel::{
    mm::virt::{flags, VmaRef},
    page::PAGE_SIZE,
    prelude::*,
};

pub(crate) use crate::object::memory::entry::{flag, Entry, Kind, Tree};

/// Page table entries in the order of addresses, with room that is made before any lock is taken.
pub(crate) struct Entries(KVVec<Entry>);

impl Entries {
    /// Makes room for `most` of them.
    pub(crate) fn with_capacity(most: usize) -> Result<Self> {
        Ok(Self(KVVec::with_capacity(most, gfp())?))
    }

    /// Returns those that were read last.
    pub(crate) fn iter(&self) -> core::slice::Iter<'_, Entry> {
        self.0.iter()
    }

    /// Forgets what was read.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets those at `address` and above.
    pub(crate) fn keep_below(&mut self, address: usize) {
        let kept = self.0.partition_point(|entry| entry.address() < address);
        self.0.truncate(kept);
    }

    /// The entry at a place.
    pub(crate) fn get(&self, at: usize) -> &Entry {
        &self.0[at]
    }

    /// The one with the least address.
    pub(crate) fn first(&self) -> Option<&Entry> {
        self.0.first()
    }

    /// The one with the greatest address.
    pub(crate) fn last(&self) -> Option<&Entry> {
        self.0.last()
    }

    /// How many were read last.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The entry that translates `address`, if it was read and is not empty.
    pub(crate) fn at(&self, address: usize) -> Option<(usize, &Entry)> {
        let at = self.0.binary_search_by_key(&address, Entry::address).ok()?;
        Some((at, &self.0[at]))
    }

    /// Reads a part of a VMA's page tables, and returns where it stopped: at `end`, before an entry
    /// after the first `most`, or where it had looked at enough tables, however empty. `start..end`
    /// is cut to the VMA.
    pub(crate) fn read(&mut self, vma: &VmaRef, start: usize, end: usize, most: usize) -> usize {
        let start = start.clamp(vma.start(), vma.end());
        let end = end.clamp(start, vma.end());
        // SAFETY: A `VmaRef` means that the address space's mmap_lock or the VMA's own lock is
        // held. munmap() takes the first for writing, and the second too, before it detaches a VMA
        // (vms_gather_munmap_vmas()); of what it frees with mmap_lock downgraded, no table
        // translates a VMA that is still attached (free_pgtables() keeps to the floor and ceiling
        // that vms_clear_ptes() gives it).
        unsafe { page_table::read(vma.as_ptr(), start, end, &mut self.0, most) }
    }

    /// Reads a part of the page tables of a VMA that a reverse map leads to. The part is cut to the
    /// VMA.
    fn read_linked(&mut self, linked: LinkedVma<'_>, start: usize, end: usize) {
        let vma = linked.values();
        let start = start.clamp(vma.start, vma.end);
        let end = end.clamp(start, vma.end);
        // SAFETY: The tree's lock is held and the VMA linked in it, by `LinkedVma`'s invariant.
        unsafe { page_table::read(linked.as_ptr(), start, end, &mut self.0, usize::MAX) };
    }
}

/// Whether a VMA is of huge pages (hugetlbfs), whose tables ravel does not read.
pub(crate) fn is_hugetlb(vma: &VmaRef) -> bool {
    vma.flags() & flags::HUGETLB != 0
}

/// Pages of a mapping, from `first` to `last`, that a VMA covers, as addresses in it.
fn cover(vma: &MemberVma, first: usize, last: usize) -> Option<(usize, usize)> {
    let pages = vma.end.wrapping_sub(vma.start) / PAGE_SIZE;
    let from = first.max(vma.key);
    let to = last.saturating_add(1).min(vma.key.saturating_add(pages));
    (from < to).then(|| {
        (
            // Both are within the VMA.
            vma.start
                .wrapping_add(from.wrapping_sub(vma.key).wrapping_mul(PAGE_SIZE)),
            vma.start
                .wrapping_add(to.wrapping_sub(vma.key).wrapping_mul(PAGE_SIZE)),
        )
    })
}

/// A reverse map: the VMAs that may map the pages of an anon_vma or of a file, and its lock, held.
pub(crate) enum ReverseMap<'g> {
    /// An anon_vma's.
    Anon(AnonVma<'g>),
    /// A file's.
    File(&'g FileGuard<'g>),
}

impl<'g> ReverseMap<'g> {
    /// The VMAs in it that cover some of the offsets, by where they begin.
    pub(crate) fn covering(
        &self,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = LinkedVma<'g>> {
        let (anon, file) = match self {
            Self::Anon(anon_vma) => (Some(anon_vma.covering(first, last)), None),
            Self::File(file) => (None, Some(file.covering(first, last))),
        };
        Iterator::chain(anon.into_iter().flatten(), file.into_iter().flatten())
    }

    /// Offsets that one of them covers, and that one before it covers for the same page table
    /// entries.
    ///
    /// A file has none: its lock is held for writing from before a VMA is linked or grown to after
    /// the whole one is cut and those that it took in are unlinked (`vma_prepare()`,
    /// `vma_complete()`), and mmap() over a VMA unlinks that one first (`vms_clean_up_area()`).
    fn doubled(&self, linked: LinkedVma<'g>) -> Option<Range<usize>> {
        match self {
            Self::Anon(anon_vma) => anon_vma.doubled(linked),
            Self::File(_) => None,
        }
    }
}

/// Looks for those that map some pages of an anon_vma or a file, as the kernel's reverse walk
/// would: visits each VMA that could, and reads its page tables.
///
/// `first` and `last` are the least and the greatest offset of the pages, at most as far apart as
/// `room` holds. `candidate` is called for each VMA that covers some of these offsets, with these;
/// `entry` for each of its entries there, with the offset, and of none twice.
pub(crate) fn reverse<'g>(
    map: &ReverseMap<'g>,
    first: usize,
    last: usize,
    room: &mut Entries,
    mut candidate: impl FnMut(usize, usize),
    mut entry: impl FnMut(&LinkedVma<'g>, usize, &Entry),
) {
    for linked in map.covering(first, last) {
        let vma = linked.values();
        let Some((start, end)) = cover(&vma, first, last) else {
            continue;
        };
        let index = |address: usize| {
            vma.key
                .wrapping_add(address.wrapping_sub(vma.start) / PAGE_SIZE)
        };
        candidate(index(start), index(end.wrapping_sub(PAGE_SIZE)));
        room.read_linked(linked, start, end);
        let doubled = map.doubled(linked).unwrap_or_default();
        for seen in room.iter() {
            let index = index(seen.address());
            if !doubled.contains(&index) {
                entry(&linked, index, seen);
            }
        }
    }
}
