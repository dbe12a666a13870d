// SPDX-License-Identifier: GPL-2.0

//! Page table entries, of a process and of those that share its pages.
//!
//! C source: `bindings/pages.c`, after `page_vma_mapped_walk()` in `mm/page_vma_mapped.c`.

use super::{
    anon_vma::{AnonVma, Member, Token},
    id::Id,
};
use crate::bindings;
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
        let mut room = KVVec::with_capacity(most, GFP_KERNEL)?;
        room.resize(most, bindings::ravel_page::default(), GFP_KERNEL)?;
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

    /// Reads a part of a VMA's page tables, and returns where it stopped: at `end`, or before an entry
    /// past the first `most`.
    pub(crate) fn read(&mut self, vma: &VmaRef, start: usize, end: usize, most: usize) -> usize {
        // SAFETY: A `VmaRef` means that its address space's mmap_lock is held, which keeps the tables.
        unsafe { self.walk(vma.as_ptr(), start, end, most) }
    }

    /// Reads a part of the page tables of a VMA that hangs in an anon_vma's tree.
    pub(super) fn read_member(&mut self, member: &Member<'_>, start: usize, end: usize) -> usize {
        // SAFETY: The VMA stays linked while the root's lock is held, as `Member` says, and free_pgtables()
        // unlinks it before it frees the tables.
        unsafe { self.walk(member.as_ptr(), start, end, usize::MAX) }
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

/// Pages of an anon_vma, from `first` to `last`, that a member's VMA covers, as addresses in it.
fn cover(member: &Member<'_>, first: usize, last: usize) -> Option<(usize, usize)> {
    let vma = member.vma();
    let pages = (vma.end - vma.start) / PAGE_SIZE;
    let from = first.max(vma.anon_pgoff);
    let to = (last + 1).min(vma.anon_pgoff + pages);
    (from < to).then(|| {
        (
            vma.start + (from - vma.anon_pgoff) * PAGE_SIZE,
            vma.start + (to - vma.anon_pgoff) * PAGE_SIZE,
        )
    })
}

/// Looks for those that map some of an anon_vma's pages, as the kernel's reverse walk would: visits each
/// member that could, and reads its page tables.
///
/// `first` and `last` are the least and the greatest offset in the anon_vma, at most as far apart as `room`
/// holds. `candidate` is told of each member that covers some of these offsets; `entry` of each of its
/// entries there, with the offset, and of none twice.
pub(crate) fn reverse<'g>(
    anon_vma: &AnonVma<'g>,
    first: usize,
    last: usize,
    room: &mut Entries,
    mut candidate: impl FnMut(&Member<'g>, usize, usize),
    mut entry: impl FnMut(&Member<'g>, usize, Entry),
) {
    for member in anon_vma.members() {
        // Ordered by where they begin.
        let vma = member.vma();
        if vma.anon_pgoff > last {
            break;
        }
        let Some((start, end)) = cover(&member, first, last) else {
            continue;
        };
        let index = |address: usize| vma.anon_pgoff + (address - vma.start) / PAGE_SIZE;
        candidate(&member, index(start), index(end - PAGE_SIZE));
        room.read_member(&member, start, end);
        let doubled = member.doubled(anon_vma).unwrap_or_default();
        for seen in room.iter() {
            let index = index(seen.address());
            if !doubled.contains(&index) {
                entry(&member, index, seen);
            }
        }
    }
}
