// SPDX-License-Identifier: GPL-2.0

//! What one page table entry says, and the page behind it.
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h),
//! [`include/linux/leafops.h`](srctree/include/linux/leafops.h)

use crate::bindings;
use crate::object::{
    memory::anon_vma::Token, memory::file_map::FileToken, sync::id::Id, sync::read_once,
};

/// Flags of a folio (`enum pageflags`).
pub(crate) mod flag {
    use crate::bindings;

    pub(crate) const LOCKED: usize = 1 << bindings::pageflags_PG_locked;
    pub(crate) const REFERENCED: usize = 1 << bindings::pageflags_PG_referenced;
    pub(crate) const UPTODATE: usize = 1 << bindings::pageflags_PG_uptodate;
    pub(crate) const DIRTY: usize = 1 << bindings::pageflags_PG_dirty;
    pub(crate) const LRU: usize = 1 << bindings::pageflags_PG_lru;
    pub(crate) const ACTIVE: usize = 1 << bindings::pageflags_PG_active;
    pub(crate) const SWAPBACKED: usize = 1 << bindings::pageflags_PG_swapbacked;
    pub(crate) const SWAPCACHE: usize = 1 << bindings::pageflags_PG_swapcache;
    pub(crate) const WRITEBACK: usize = 1 << bindings::pageflags_PG_writeback;
    pub(crate) const UNEVICTABLE: usize = 1 << bindings::pageflags_PG_unevictable;
    pub(crate) const MLOCKED: usize = 1 << bindings::pageflags_PG_mlocked;
    pub(super) const HEAD: usize = 1 << bindings::pageflags_PG_head;
    pub(super) const ANON_EXCLUSIVE: usize = 1 << bindings::pageflags_PG_anon_exclusive;
}

const MAPPING_ANON: usize = bindings::FOLIO_MAPPING_ANON as usize;
const MAPPING_KSM: usize =
    (bindings::FOLIO_MAPPING_ANON | bindings::FOLIO_MAPPING_ANON_KSM) as usize;

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
    /// In the memory of a device, or in exclusive use by one.
    Device,
    /// Lost to a memory error.
    Hwpoison,
    /// No page: a guard region, or userfaultfd's mark.
    Marker,
    /// A page of the kernel's or of a driver's (the vdso), or one that was truncated from its file.
    Kernel,
}

/// The reverse map that leads to the VMAs that may map a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    /// An anon_vma's, to be found in the chain of the VMA.
    Anon(Token),
    /// A file's, to be compared with that of the VMA.
    File(FileToken),
}

/// A page table entry, as it was under its table's lock: plain values.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    address: usize,
    /// The entry of the page table. A leaf of a higher level has its bits at the same places
    /// (`pmd_pte()`).
    bits: bindings::pte_t,
    /// The page frame's number; of [`Kind::Swap`], the swap entry.
    pfn: usize,
    /// The address of the anon_vma or address_space, without the flags in its lowest bits.
    mapping: usize,
    index: usize,
    flags: usize,
    mapcount: u32,
    folio_mapcount: u32,
    place: u32,
    kind: Kind,
    order: u8,
    huge: bool,
    exclusive: bool,
}

impl Entry {
    fn new(address: usize, bits: bindings::pte_t, pfn: usize, kind: Kind) -> Self {
        Self {
            address,
            bits,
            pfn,
            mapping: 0,
            index: 0,
            flags: 0,
            mapcount: 0,
            folio_mapcount: 0,
            place: 0,
            kind,
            order: 0,
            huge: false,
            exclusive: false,
        }
    }

    /// Reads an entry of the lowest level; none if it is empty.
    ///
    /// # Safety
    ///
    /// `pte` is an entry of a page table whose lock is held.
    #[inline]
    pub(super) unsafe fn of_pte(address: usize, pte: bindings::pte_t) -> Option<Self> {
        // SAFETY: The page table's lock is held, by this function's requirements: a page that the
        // entry maps is not unmapped, and so not freed. The others look at values only.
        unsafe {
            if !bindings::pte_present(pte) {
                // Two bits may stay behind in an entry that is empty (_PAGE_KNL_ERRATUM_MASK).
                if bindings::pte_none(pte) {
                    return None;
                }
                let leaf = bindings::softleaf_from_pte(pte);
                return Some(Self::of_softleaf(address, leaf, 0));
            }
            let pfn = bindings::pte_pfn(pte);
            let mut entry = Self::new(address, pte, pfn, Kind::Special);
            if bindings::pte_special(pte) {
                if bindings::is_zero_pfn(pfn) {
                    entry.kind = Kind::Zero;
                }
            } else if bindings::pfn_valid(pfn) {
                entry.read_page(pfn);
            }
            Some(entry)
        }
    }

    /// Reads the page at a place in what a leaf of a higher level maps, from the frame `first` on.
    ///
    /// # Safety
    ///
    /// `bits` are those of a leaf that is present, and whose table's lock is held.
    pub(super) unsafe fn of_huge(
        address: usize,
        bits: bindings::pte_t,
        first: usize,
        at: usize,
        anonymous: bool,
    ) -> Self {
        let mut entry = Self::new(address, bits, first.wrapping_add(at), Kind::Special);
        entry.huge = true;
        // SAFETY: The table's lock is held, by this function's requirements: the pages are not
        // unmapped, and so not freed. The others look at values only.
        unsafe {
            if !bindings::pte_special(bits) && bindings::pfn_valid(first) {
                entry.read_page(first);
            } else if anonymous {
                // The huge page of zeroes is all that is special in anonymous memory.
                entry.kind = Kind::Zero;
            }
        }
        entry
    }

    /// Reads the page at a place in what a pmd that is not present stands for.
    ///
    /// # Safety
    ///
    /// `pmd` is an entry whose table's lock is held; it is neither empty nor present.
    pub(super) unsafe fn of_absent_pmd(address: usize, pmd: bindings::pmd_t, at: usize) -> Self {
        // SAFETY: The table's lock is held, by this function's requirements.
        let mut entry = unsafe {
            let leaf = bindings::softleaf_from_pmd(pmd);
            Self::of_softleaf(address, leaf, at)
        };
        entry.huge = true;
        entry
    }

    /// Reads an entry that is not present and not empty; `at`: which of its pages.
    ///
    /// # Safety
    ///
    /// Its table's lock is held.
    unsafe fn of_softleaf(address: usize, leaf: bindings::softleaf_t, at: usize) -> Self {
        // Without the bits of an entry that is present.
        let none = bindings::pte_t { pte: 0 };
        // SAFETY: Both look at the value only.
        let pfn = || unsafe { bindings::softleaf_to_pfn(leaf) }.wrapping_add(at);
        // SAFETY: As above.
        match unsafe { bindings::softleaf_type(leaf) } {
            bindings::softleaf_type_SOFTLEAF_SWAP => Self::new(address, none, leaf.val, Kind::Swap),
            bindings::softleaf_type_SOFTLEAF_MIGRATION_READ
            | bindings::softleaf_type_SOFTLEAF_MIGRATION_READ_EXCLUSIVE
            | bindings::softleaf_type_SOFTLEAF_MIGRATION_WRITE => {
                Self::new(address, none, pfn(), Kind::Migration)
            }
            bindings::softleaf_type_SOFTLEAF_DEVICE_PRIVATE_READ
            | bindings::softleaf_type_SOFTLEAF_DEVICE_PRIVATE_WRITE
            | bindings::softleaf_type_SOFTLEAF_DEVICE_EXCLUSIVE => {
                let mut entry = Self::new(address, none, pfn(), Kind::Device);
                // SAFETY: Such an entry counts as a mapping of its page, which therefore is not
                // freed while the lock is held.
                unsafe { entry.read_page(entry.pfn.wrapping_sub(at)) };
                if entry.kind != Kind::Anon {
                    entry.mapping = 0;
                    entry.index = 0;
                }
                entry.kind = Kind::Device;
                entry
            }
            bindings::softleaf_type_SOFTLEAF_HWPOISON => {
                Self::new(address, none, 0, Kind::Hwpoison)
            }
            _ => Self::new(address, none, 0, Kind::Marker),
        }
    }

    /// Reads the page's state and that of its folio. `first` is the first frame that the leaf maps,
    /// whose page has PG_anon_exclusive for all of them.
    ///
    /// # Safety
    ///
    /// The entry maps the frame `self.pfn`, which has a struct page, and its table's lock is held.
    #[inline]
    unsafe fn read_page(&mut self, first: usize) {
        // SAFETY: The page is mapped, so that its folio is not freed and not split. What changes
        // meanwhile is read once.
        unsafe {
            let folio = bindings::pfn_folio(self.pfn);
            let head = &raw const (*folio).__bindgen_anon_1.page;
            let flags = read_once!((*head).flags.f) as usize;
            let mut exclusive = flags;
            if flags & flag::HEAD == 0 {
                self.mapcount = mapcount(head);
                self.folio_mapcount = self.mapcount;
            } else {
                let page = bindings::pfn_to_page(self.pfn);
                let second = &raw const (*folio).__bindgen_anon_2.__bindgen_anon_1;
                let counts = &raw const (*second).__bindgen_anon_1.__bindgen_anon_1;
                let of = |count: i32| count.wrapping_add(1) as u32;
                self.order = read_once!((*second)._flags_1) as u8;
                self.place = page.offset_from(head) as u32;
                let entire = of(read_once!((*counts)._entire_mapcount.counter));
                self.mapcount = mapcount(page).wrapping_add(entire);
                self.folio_mapcount = of(read_once!((*counts)._large_mapcount.counter));
                let first = bindings::pfn_to_page(first);
                exclusive = read_once!((*first).flags.f) as usize;
            }
            self.flags = flags;
            let fields = &raw const (*folio).__bindgen_anon_1.__bindgen_anon_1;
            let mapping = read_once!((*fields).mapping).addr();
            if mapping == 0 {
                // Without a mapping, the index is another word: of a page_pool's page, an address
                // for DMA.
                self.kind = Kind::Kernel;
                return;
            }
            self.index = read_once!((*fields).__bindgen_anon_2.index) as usize;
            self.index = self.index.wrapping_add(self.place as usize);
            if mapping & MAPPING_KSM == MAPPING_KSM {
                self.kind = Kind::Ksm;
            } else if mapping & MAPPING_ANON != 0 {
                self.kind = Kind::Anon;
                self.mapping = mapping & !MAPPING_KSM;
                self.exclusive = exclusive & flag::ANON_EXCLUSIVE != 0;
            } else {
                self.kind = Kind::File;
                self.mapping = mapping & !MAPPING_KSM;
            }
        }
    }

    /// What it holds.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The address it translates.
    pub(crate) fn address(&self) -> usize {
        self.address
    }

    /// The page frame's number; 0 where there is none.
    pub(crate) fn pfn(&self) -> usize {
        if self.kind == Kind::Swap {
            0
        } else {
            self.pfn
        }
    }

    /// log2 of how many pages its folio has.
    pub(crate) fn order(&self) -> u8 {
        self.order
    }

    /// The page's position in its folio.
    pub(crate) fn place(&self) -> u32 {
        self.place
    }

    /// The page's offset in its mapping, in pages; 0 where it has no mapping.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Page table entries, anywhere, that map this page.
    pub(crate) fn mapcount(&self) -> u32 {
        self.mapcount
    }

    /// Page table entries, anywhere, that map any page of its folio.
    pub(crate) fn folio_mapcount(&self) -> u32 {
        self.folio_mapcount
    }

    /// Whether the kernel knows that nothing else maps it, so that a write needs no copy
    /// (`PageAnonExclusive()`).
    pub(crate) fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// Whether a leaf of a higher level maps it.
    pub(crate) fn huge(&self) -> bool {
        self.huge
    }

    /// Whether it can be written without a fault.
    pub(crate) fn writable(&self) -> bool {
        // SAFETY: Looks at the value only.
        unsafe { bindings::pte_write(self.bits) }
    }

    /// Whether it was written through this entry.
    pub(crate) fn dirty(&self) -> bool {
        // SAFETY: Looks at the value only.
        unsafe { bindings::pte_dirty(self.bits) }
    }

    /// Whether it was used through this entry since the kernel last asked.
    pub(crate) fn accessed(&self) -> bool {
        // SAFETY: Looks at the value only.
        unsafe { bindings::pte_young(self.bits) }
    }

    /// The swap device's number and the slot, of [`Kind::Swap`].
    pub(crate) fn swap(&self) -> (u32, usize) {
        if self.kind != Kind::Swap {
            return (0, 0);
        }
        let entry = bindings::swp_entry_t {
            val: self.pfn as kernel::ffi::c_ulong,
        };
        // SAFETY: Both look at the value only.
        unsafe { (bindings::swp_type(entry), bindings::swp_offset(entry)) }
    }

    /// The [`flag`]s of its folio.
    pub(crate) fn flags(&self) -> usize {
        // As folio_test_swapcache(): the bit means something else in folios that are not backed by
        // swap.
        if self.flags & flag::SWAPBACKED == 0 {
            self.flags & !flag::SWAPCACHE
        } else {
            self.flags
        }
    }

    /// Its anon_vma, to be found in the chain of the VMA.
    pub(crate) fn anon_vma(&self) -> Option<Token> {
        match self.kind {
            Kind::Anon => Some(Token::of(self.mapping)),
            Kind::Device if self.mapping != 0 => Some(Token::of(self.mapping)),
            _ => None,
        }
    }

    /// The reverse map that leads to all that map it; none for pages of other kinds, as far as a
    /// module can reach it.
    pub(crate) fn tree(&self) -> Option<Tree> {
        match self.kind {
            Kind::File => Some(Tree::File(FileToken::of(self.mapping))),
            _ => self.anon_vma().map(Tree::Anon),
        }
    }

    /// The id of its anon_vma or address_space.
    pub(crate) fn mapping(&self) -> Id {
        Id::of(core::ptr::without_provenance::<u8>(self.mapping))
    }

    /// Whether it maps the page that `other` maps. A device's entry is a mapping, too, and is in
    /// the mapcount.
    pub(crate) fn maps_the_page_of(&self, other: &Self) -> bool {
        let is_mapping =
            |entry: &Self| matches!(entry.kind, Kind::Anon | Kind::File | Kind::Device);
        self.pfn == other.pfn && is_mapping(self) && is_mapping(other)
    }
}

/// The page table entries that map a page of its own, as opposed to its whole folio.
///
/// # Safety
///
/// `page` is valid.
unsafe fn mapcount(page: *const bindings::page) -> u32 {
    const TYPED: i32 = (bindings::pagetype_PGTY_mapcount_underflow << 24) as i32;
    // SAFETY: The page is valid, by this function's requirements.
    let count = unsafe { read_once!((*page).__bindgen_anon_2._mapcount.counter) };
    // The word has a page type instead, as page_type_has_type() sees it.
    if count < TYPED {
        0
    } else {
        count.wrapping_add(1) as u32
    }
}
