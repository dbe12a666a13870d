// SPDX-License-Identifier: GPL-2.0

//! The walk over page tables, after `page_vma_mapped_walk()` in `mm/page_vma_mapped.c`, which is
//! not exported.
//!
//! Nothing is faulted in and no accessed bit changes.
//!
//! Two things keep tables from being freed. Against free_pgtables(), which frees the tables of a
//! range without their locks, the caller holds a lock that keeps the VMA linked. Against the
//! removal of a single page table (PT_RECLAIM in zap_pte_range(), retract_page_tables(),
//! collapse_huge_page()) the walk holds RCU, and compares the pmd again under the page table's
//! lock, as pte_offset_map_lock() does.
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/leafops.h`](srctree/include/linux/leafops.h)

use crate::bindings;
use crate::object::{memory::entry::Entry, sync::read_once};
use core::marker::PhantomData;
use kernel::{page::PAGE_SIZE, prelude::*, sync::rcu, types::NotThreadSafe};

/// Page tables, and gaps of their size or greater, that one call looks at, however few entries they
/// have: the caller holds a lock.
const MAX_STEPS: usize = 256;

/// How often one call looks again at a pmd that another CPU changed. It can be split and collapsed
/// forever.
const MAX_RETRIES: usize = 1000;

const P4D_SIZE: usize = bindings::RAVEL_P4D_SIZE;
const PUD_SIZE: usize = bindings::RAVEL_PUD_SIZE;
const PMD_SIZE: usize = bindings::RAVEL_PMD_SIZE;

/// The lock of a page table, held.
///
/// # Invariants
///
/// `lock` is valid for `'t`, and held by this thread.
struct TableLock<'t> {
    lock: *mut bindings::spinlock_t,
    _table: PhantomData<&'t ()>,
    _nts: NotThreadSafe,
}

impl TableLock<'_> {
    /// Takes the lock.
    ///
    /// # Safety
    ///
    /// `lock` is valid for as long as the result lives, and not held by this thread.
    unsafe fn take(lock: *mut bindings::spinlock_t) -> Self {
        // SAFETY: The lock is valid, by this function's requirements.
        unsafe { bindings::spin_lock(lock) };
        // INVARIANT: Just taken.
        Self {
            lock,
            _table: PhantomData,
            _nts: NotThreadSafe,
        }
    }
}

impl Drop for TableLock<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is valid and held, by the type's invariant.
        unsafe { bindings::spin_unlock(self.lock) };
    }
}

/// What the upper levels have for an address.
enum Upper {
    /// Nothing.
    Empty,
    /// A pud that is a leaf: memory of a device, for hugetlbfs is not walked.
    HugePud(*mut bindings::pud_t),
    /// A pmd that is a leaf, or that is not present.
    HugePmd(*mut bindings::pmd_t),
    /// A pmd that names a page table.
    Table(*mut bindings::pmd_t),
}

/// How far one step of the walk went.
enum Step {
    /// It reached this address.
    To(usize),
    /// The table changed meanwhile, and has to be looked at again.
    Again,
}

/// The end of what an entry of `size` bytes translates around `address`, or `end` if that comes
/// first.
fn part_end(address: usize, end: usize, size: usize) -> usize {
    let boundary = (address & !size.wrapping_sub(1)).wrapping_add(size);
    // At the very top of the address space, the boundary wraps to 0.
    if boundary.wrapping_sub(1) < end.wrapping_sub(1) {
        boundary
    } else {
        end
    }
}

/// A walk under way.
///
/// # Invariants
///
/// `mm` is valid, and free_pgtables() frees none of the tables that translate the walked range, as
/// [`read`] requires.
struct Walk<'a> {
    mm: *mut bindings::mm_struct,
    /// The VMA is anonymous.
    anonymous: bool,
    out: &'a mut KVVec<Entry>,
    most: usize,
}

/// Reads the entries from `start` on that are not empty, at most `most` of them and as many as
/// `out` has room for, and returns where it stopped: at `end`, before an entry for which there was
/// no room, or after [`MAX_STEPS`].
///
/// # Safety
///
/// `vma` is valid and covers `start..end`. It stays linked in its address space's tree, in its
/// anon_vma's or in its file's, because its mmap_lock, its own lock, or that tree's lock is held:
/// free_pgtables() comes after it was unlinked from all of them (`vms_clear_ptes()`,
/// `exit_mmap()`).
pub(super) unsafe fn read(
    vma: *const bindings::vm_area_struct,
    start: usize,
    end: usize,
    out: &mut KVVec<Entry>,
    most: usize,
) -> usize {
    // SAFETY: The VMA is valid, and both are set once.
    let (mm, anonymous) = unsafe { ((*vma).vm_mm, (*vma).vm_ops.is_null()) };
    out.clear();
    let most = most.min(out.capacity());
    // INVARIANT: By this function's requirements; the VMA keeps its address space.
    let mut walk = Walk {
        mm,
        anonymous,
        out,
        most,
    };
    walk.run(start, end)
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.out.len() >= self.most
    }

    /// There is room, as the caller has seen.
    fn push(&mut self, entry: Entry) {
        let _ = self.out.push_within_capacity(entry);
    }

    fn run(&mut self, start: usize, end: usize) -> usize {
        let mut address = start;
        let mut retries = 0_usize;
        let mut steps = 0_usize;
        while address < end && !self.is_full() && steps < MAX_STEPS {
            let (upper, next) = self.descend(address, end);
            let step = match upper {
                Upper::Empty => Step::To(next),
                Upper::HugePud(pud) => self.huge_pud(pud, address, next),
                Upper::HugePmd(pmd) => self.huge_pmd(pmd, address, next),
                Upper::Table(pmd) => self.table(pmd, address, next),
            };
            match step {
                Step::To(reached) => {
                    address = reached;
                    steps = steps.saturating_add(1);
                }
                Step::Again => {
                    retries = retries.saturating_add(1);
                    if retries == MAX_RETRIES {
                        address = next;
                    }
                }
            }
        }
        address
    }

    /// Walks the upper levels, and returns with the entry the end of what it translates.
    fn descend(&self, address: usize, end: usize) -> (Upper, usize) {
        // SAFETY: The tables of these levels are freed by free_pgtables() only, which the type's
        // invariant keeps off, and an upper entry that is present names a table of the next level.
        // A pud or pmd is read without its lock here, and again under it.
        unsafe {
            let pgd = bindings::pgd_offset(self.mm, address);
            if !bindings::pgd_present(read_once!(*pgd)) {
                return (Upper::Empty, part_end(address, end, P4D_SIZE));
            }
            let p4d = bindings::p4d_offset(pgd, address);
            if !bindings::p4d_present(read_once!(*p4d)) {
                return (Upper::Empty, part_end(address, end, P4D_SIZE));
            }
            let pud = bindings::pud_offset(p4d, address);
            let value = read_once!(*pud);
            if !bindings::pud_present(value) {
                return (Upper::Empty, part_end(address, end, PUD_SIZE));
            }
            if bindings::pud_leaf(value) {
                return (Upper::HugePud(pud), part_end(address, end, PUD_SIZE));
            }
            let pmd = bindings::pmd_offset(pud, address);
            let value = bindings::pmdp_get_lockless(pmd);
            let upper = if bindings::pmd_none(value) {
                Upper::Empty
            } else if bindings::pmd_leaf(value) || !bindings::pmd_present(value) {
                Upper::HugePmd(pmd)
            } else {
                Upper::Table(pmd)
            };
            (upper, part_end(address, end, PMD_SIZE))
        }
    }

    /// Reads a page table. Holds its lock for at most 512 entries.
    fn table(&mut self, pmd: *mut bindings::pmd_t, start: usize, end: usize) -> Step {
        let _rcu = rcu::read_lock();
        // SAFETY: `pmd` is an entry of a table that is not freed, by the type's invariant.
        let value = unsafe { bindings::pmdp_get_lockless(pmd) };
        // It named a table a moment ago.
        // SAFETY: These look at the value only.
        unsafe {
            if bindings::pmd_none(value) {
                return Step::To(end);
            }
            if bindings::pmd_leaf(value) || !bindings::pmd_present(value) {
                return Step::Again;
            }
            if bindings::pmd_bad(value) {
                return Step::To(end);
            }
        }
        // SAFETY: The pmd named this table within this RCU section, so that it is not freed before
        // its end (pte_free_defer(), tlb_remove_table()), and neither is its lock.
        let (_lock, mut pte) = unsafe {
            let lock = bindings::pte_lockptr(self.mm, (&raw const value).cast_mut());
            let pte = bindings::pte_offset_kernel((&raw const value).cast_mut(), start);
            (TableLock::take(lock), pte)
        };
        // SAFETY: As above.
        if unsafe { bindings::pmdp_get_lockless(pmd) }.pmd != value.pmd {
            return Step::Again;
        }
        let mut address = start;
        while address != end {
            // SAFETY: `pte` is within the table, for `end` is not beyond what the pmd translates.
            let entry = unsafe { read_once!(*pte) };
            if entry.pte != 0 {
                if self.is_full() {
                    break;
                }
                // SAFETY: The table's lock is held, and the table is still the pmd's.
                if let Some(entry) = unsafe { Entry::of_pte(address, entry) } {
                    self.push(entry);
                }
            }
            address = address.wrapping_add(PAGE_SIZE);
            pte = pte.wrapping_add(1);
        }
        Step::To(address)
    }

    /// Reads what a huge pmd maps, page by page.
    fn huge_pmd(&mut self, pmd: *mut bindings::pmd_t, start: usize, end: usize) -> Step {
        // SAFETY: `pmd` is an entry of a table that is not freed, by the type's invariant, and
        // neither is its lock.
        let _lock = unsafe { TableLock::take(bindings::pmd_lockptr(self.mm, pmd)) };
        // SAFETY: As above.
        let value = unsafe { read_once!(*pmd) };
        // SAFETY: These look at the value only.
        let (none, present, leaf) = unsafe {
            (
                bindings::pmd_none(value),
                bindings::pmd_present(value),
                bindings::pmd_leaf(value),
            )
        };
        if none {
            return Step::To(end);
        }
        if present && !leaf {
            return Step::Again;
        }
        if present {
            // SAFETY: Looks at the value only; the lock is held while the pages are read.
            unsafe {
                let pfn = bindings::pmd_pfn(value);
                // The bits of a leaf are those of a pte at each level.
                let bits = bindings::pte_t { pte: value.pmd };
                return Step::To(self.huge(bits, pfn, PMD_SIZE, start, end));
            }
        }
        let mut address = start;
        while address != end && !self.is_full() {
            let at = (address & (PMD_SIZE - 1)) / PAGE_SIZE;
            // SAFETY: The pmd's lock is held.
            let entry = unsafe { Entry::of_absent_pmd(address, value, at) };
            self.push(entry);
            address = address.wrapping_add(PAGE_SIZE);
        }
        Step::To(address)
    }

    /// Reads what a huge pud maps, page by page.
    fn huge_pud(&mut self, pud: *mut bindings::pud_t, start: usize, end: usize) -> Step {
        // SAFETY: `pud` is an entry of a table that is not freed, by the type's invariant, and
        // neither is its lock.
        let _lock = unsafe { TableLock::take(bindings::pud_lockptr(self.mm, pud)) };
        // SAFETY: As above; the others look at the value only.
        unsafe {
            let value = read_once!(*pud);
            if !bindings::pud_present(value) || !bindings::pud_leaf(value) {
                return Step::Again;
            }
            let bits = bindings::pte_t { pte: value.pud };
            let pfn = bindings::pud_pfn(value);
            Step::To(self.huge(bits, pfn, PUD_SIZE, start, end))
        }
    }

    /// Reads the pages of a leaf of `size` bytes that maps those from the frame `first` on, and
    /// returns where it stopped.
    ///
    /// # Safety
    ///
    /// The leaf is present, and its table's lock held.
    unsafe fn huge(
        &mut self,
        bits: bindings::pte_t,
        first: usize,
        size: usize,
        start: usize,
        end: usize,
    ) -> usize {
        let mut address = start;
        while address != end && !self.is_full() {
            let at = (address & size.wrapping_sub(1)) / PAGE_SIZE;
            // SAFETY: The leaf is present, and its table's lock held, by this function's
            // requirements.
            let entry = unsafe { Entry::of_huge(address, bits, first, at, self.anonymous) };
            self.push(entry);
            address = address.wrapping_add(PAGE_SIZE);
        }
        address
    }
}
