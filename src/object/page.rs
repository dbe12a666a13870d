// SPDX-License-Identifier: GPL-2.0

//! Page table entries, of a process and of those that share its pages.
//!
//! C source: `bindings/pages.c`, after `page_vma_mapped_walk()` in `mm/page_vma_mapped.c`.

use super::{
    anon_vma::{AnonVma, Token},
    file_map::{FileGuard, FileToken},
    gfp,
    id::Id,
    mm::{LinkedVma, MemberVma},
};
use crate::bindings;
use core::ops::Range;
use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

/// What a page table entry holds that is not empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anonymous memory.
    Anon,
    /// A page of a file, of tmpfs, or of a device with struct pages.
    File,
    /// Anonymous memory that KSM has merged with other pages.
    Ksm,
    /// The page of zeroes, or the huge one.
    Zero,
    /// Memory without a struct page.
    Special,
    /// A swap entry.
    Swap,
    /// The page is being migrated.
    Migration,
    /// In the memory of a device.
    Device,
    /// Lost to a memory error.
    Hwpoison,
    /// No page: a guard region, or userfaultfd's mark.
    Marker,
    /// A page of the kernel's or of a driver's (the vdso), or one that was cut off its file.
    Kernel,
}

/// Where those hang that may map a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    /// An anon_vma, to be found in the chain of the VMA.
    Anon(Token),
    /// A file, to be compared with that of the VMA.
    File(FileToken),
}

/// A page table entry, as it was under the table's lock: plain values.
#[derive(Clone, Copy)]
pub(crate) struct Entry(bindings::ravel_page);

impl Entry {
    /// What it holds.
    pub(crate) fn kind(&self) -> Kind {
        match u32::from(self.0.kind) {
            bindings::RAVEL_PAGE_ANON => Kind::Anon,
            bindings::RAVEL_PAGE_FILE => Kind::File,
            bindings::RAVEL_PAGE_KSM => Kind::Ksm,
            bindings::RAVEL_PAGE_ZERO => Kind::Zero,
            bindings::RAVEL_PAGE_SWAP => Kind::Swap,
            bindings::RAVEL_PAGE_MIGRATION => Kind::Migration,
            bindings::RAVEL_PAGE_DEVICE => Kind::Device,
            bindings::RAVEL_PAGE_HWPOISON => Kind::Hwpoison,
            bindings::RAVEL_PAGE_MARKER => Kind::Marker,
            bindings::RAVEL_PAGE_KERNEL => Kind::Kernel,
            _ => Kind::Special,
        }
    }

    /// The address it translates.
    pub(crate) fn address(&self) -> usize {
        self.0.address as usize
    }

    /// The page frame's number; 0 where there is none.
    pub(crate) fn pfn(&self) -> u64 {
        self.0.pfn
    }

    /// log2 of how many pages its folio has.
    pub(crate) fn order(&self) -> u8 {
        self.0.order
    }

    /// Where the page stands in its folio.
    pub(crate) fn place(&self) -> u64 {
        if self.0.folio_pfn == 0 {
            0
        } else {
            self.0.pfn - self.0.folio_pfn
        }
    }

    /// The page's offset in its mapping, in pages.
    pub(crate) fn index(&self) -> usize {
        self.0.index as usize
    }

    /// Entries that map this page, wherever.
    pub(crate) fn mapcount(&self) -> u32 {
        self.0.mapcount
    }

    /// Entries that map any page of its folio.
    pub(crate) fn folio_mapcount(&self) -> u32 {
        self.0.folio_mapcount
    }

    /// The kernel knows that nobody else maps it, so that a write needs no copy (`PageAnonExclusive()`).
    pub(crate) fn exclusive(&self) -> bool {
        self.0.exclusive != 0
    }

    /// Whether a pmd maps it.
    pub(crate) fn huge(&self) -> bool {
        self.0.huge != 0
    }

    /// Whether it can be written without a fault.
    pub(crate) fn writable(&self) -> bool {
        self.0.writable != 0
    }

    /// Whether it was written through this entry.
    pub(crate) fn dirty(&self) -> bool {
        self.0.dirty != 0
    }

    /// Whether it was used through this entry since the kernel last asked.
    pub(crate) fn accessed(&self) -> bool {
        self.0.accessed != 0
    }

    /// The swap device's number and the slot.
    pub(crate) fn swap(&self) -> (u8, u64) {
        (self.0.swap_type, self.0.swap_offset)
    }

    /// `RAVEL_FLAG_*` of its folio.
    pub(crate) fn flags(&self) -> u32 {
        self.0.flags
    }

    /// Its anon_vma, to be found in the chain of the VMA; for [`Kind::Anon`].
    pub(crate) fn anon_vma(&self) -> Option<Token> {
        (self.kind() == Kind::Anon).then(|| Token::of(self.0.mapping as usize))
    }

    /// The reverse map that leads to those who map it; none for other kinds than [`Kind::Anon`] and
    /// [`Kind::File`].
    pub(crate) fn tree(&self) -> Option<Tree> {
        match self.kind() {
            Kind::Anon => self.anon_vma().map(Tree::Anon),
            Kind::File => Some(Tree::File(FileToken::of(self.0.mapping as usize))),
            _ => None,
        }
    }

    /// The id of its anon_vma or address_space.
    pub(crate) fn mapping(&self) -> Id {
        Id::of(core::ptr::without_provenance::<u8>(self.0.mapping as usize))
    }
}

/// Room for page table entries, made before any lock is taken.
pub(crate) struct Entries(KVVec<bindings::ravel_page>, usize);

impl Entries {
    /// Makes room for `most` of them.
    pub(crate) fn with_capacity(most: usize) -> Result<Self> {
        let mut room = KVVec::with_capacity(most, gfp())?;
        room.resize(most, bindings::ravel_page::default(), gfp())?;
        Ok(Self(room, 0))
    }

    /// Those that were read last, in the order of addresses.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.0[..self.1].iter().map(|page| Entry(*page))
    }

    /// Forgets what was read.
    pub(crate) fn clear(&mut self) {
        self.1 = 0;
    }

    /// Forgets those at `address` and above.
    pub(crate) fn keep_below(&mut self, address: usize) {
        self.1 = self.0[..self.1].partition_point(|page| page.address < address as u64);
    }

    /// The entry at a place.
    pub(crate) fn get(&self, at: usize) -> Entry {
        Entry(self.0[..self.1][at])
    }

    /// The one with the least address.
    pub(crate) fn first(&self) -> Option<Entry> {
        self.iter().next()
    }

    /// The one with the greatest address.
    pub(crate) fn last(&self) -> Option<Entry> {
        self.0[..self.1].last().map(|page| Entry(*page))
    }

    /// How many were read last.
    pub(crate) fn len(&self) -> usize {
        self.1
    }

    /// The entry that translates `address`, if it was read and is not empty.
    pub(crate) fn at(&self, address: usize) -> Option<(usize, Entry)> {
        let seen = &self.0[..self.1];
        let at = seen
            .binary_search_by_key(&(address as u64), |page| page.address)
            .ok()?;
        Some((at, Entry(seen[at])))
    }

    /// Reads a part of a VMA's page tables, and returns where it stopped: at `end`, before an entry past the
    /// first `most`, or where it had looked at enough tables, be they empty.
    pub(crate) fn read(&mut self, vma: &VmaRef, start: usize, end: usize, most: usize) -> usize {
        // SAFETY: A `VmaRef` means that its address space's mmap_lock is held, which keeps the tables.
        unsafe { self.walk(vma.as_ptr(), start, end, most) }
    }

    /// Reads a part of the page tables of a VMA that a reverse map leads to.
    fn read_linked(&mut self, linked: LinkedVma<'_>, start: usize, end: usize) {
        // SAFETY: The page tables are kept while the VMA is linked, by `LinkedVma`'s invariant.
        unsafe { self.walk(linked.as_ptr(), start, end, usize::MAX) };
    }

    /// # Safety
    ///
    /// The VMA is not freed meanwhile, nor its page tables as a whole: see `pages.c`.
    unsafe fn walk(
        &mut self,
        vma: *const bindings::vm_area_struct,
        start: usize,
        end: usize,
        most: usize,
    ) -> usize {
        let mut stopped = start;
        // SAFETY: By the caller; and there is room for as many entries as is said.
        self.1 = unsafe {
            bindings::ravel_walk_pages(
                (*vma).vm_mm,
                start,
                end,
                bindings::ravel_vma_is_anonymous(vma),
                self.0.as_mut_ptr(),
                self.0.len().min(most) as u32,
                &mut stopped,
            )
        } as usize;
        stopped
    }
}

/// Whether a VMA is of huge pages (hugetlbfs), whose tables ravel does not read.
pub(crate) fn is_hugetlb(vma: &VmaRef) -> bool {
    // SAFETY: A `VmaRef` is valid.
    unsafe { bindings::ravel_vma_is_hugetlb(vma.as_ptr()) }
}

/// Pages of a mapping, from `first` to `last`, that a VMA covers, as addresses in it.
fn cover(vma: &MemberVma, first: usize, last: usize) -> Option<(usize, usize)> {
    let pages = (vma.end - vma.start) / PAGE_SIZE;
    let from = first.max(vma.key);
    let to = (last + 1).min(vma.key + pages);
    (from < to).then(|| {
        (
            vma.start + (from - vma.key) * PAGE_SIZE,
            vma.start + (to - vma.key) * PAGE_SIZE,
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
    fn covering(&self, first: usize, last: usize) -> impl Iterator<Item = LinkedVma<'g>> {
        let (anon, file) = match self {
            Self::Anon(anon_vma) => (Some(anon_vma.covering(first, last)), None),
            Self::File(file) => (None, Some(file.covering(first, last))),
        };
        Iterator::chain(anon.into_iter().flatten(), file.into_iter().flatten())
    }

    /// Offsets that one of them covers, and that one before it covers for the same page table entries.
    ///
    /// A file has none: its lock is held for writing from before a VMA is linked or grown to after the whole
    /// one is cut and those that it took in are unlinked (`vma_prepare()`, `vma_complete()`), and mmap() over
    /// a VMA unlinks that one first (`vms_clean_up_area()`).
    fn doubled(&self, linked: LinkedVma<'g>) -> Option<Range<usize>> {
        match self {
            Self::Anon(anon_vma) => anon_vma.doubled(linked),
            Self::File(_) => None,
        }
    }
}

/// Looks for those that map some pages of an anon_vma or a file, as the kernel's reverse walk would: visits
/// each VMA that could, and reads its page tables.
///
/// `first` and `last` are the least and the greatest offset of the pages, at most as far apart as `room`
/// holds. `candidate` is told of each VMA that covers some of these offsets, and which; `entry` of each of
/// its entries there, with the offset, and of none twice.
pub(crate) fn reverse<'g>(
    map: &ReverseMap<'g>,
    first: usize,
    last: usize,
    room: &mut Entries,
    mut candidate: impl FnMut(usize, usize),
    mut entry: impl FnMut(&LinkedVma<'g>, usize, Entry),
) {
    for linked in map.covering(first, last) {
        let vma = linked.values();
        let Some((start, end)) = cover(&vma, first, last) else {
            continue;
        };
        let index = |address: usize| vma.key + (address - vma.start) / PAGE_SIZE;
        candidate(index(start), index(end - PAGE_SIZE));
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
