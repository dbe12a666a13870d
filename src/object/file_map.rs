// SPDX-License-Identifier: GPL-2.0

//! Which VMAs, in which processes, map a file.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h), `struct address_space`

use super::{
    hold::{Hold, Lock},
    interval::{first_reaching, Ends},
    mm::LinkedVma,
};
use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{container_of, error::to_result, mm::virt::VmaRef, prelude::*, types::NotThreadSafe};

/// Which file's pages, to compare with. Tells nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileToken(usize);

impl FileToken {
    /// The address_space at an address, as a page names it.
    pub(super) fn of(address: usize) -> Self {
        Self(address)
    }
}

/// The lock of a file's reverse map (`i_mmap_rwsem`), held for reading, come to through a VMA.
///
/// It comes after mmap_lock and before an anon_vma's. No memory may be allocated meanwhile: reclaim takes
/// it.
///
/// # Invariants
///
/// `mapping` is that of the VMA's file, which the VMA keeps, and its lock is held for reading by this thread.
pub(crate) struct FileGuard<'v> {
    mapping: NonNull<bindings::address_space>,
    _vma: PhantomData<&'v VmaRef>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl<'v> FileGuard<'v> {
    /// Waits for the lock; `EINTR` if a fatal signal comes first. None if the VMA has no file.
    pub(crate) fn lock(vma: &'v VmaRef) -> Result<Option<Self>> {
        // SAFETY: A `VmaRef` means that mmap_lock is held: the VMA keeps its file, and that its mapping.
        let mapping = unsafe {
            let file = (*vma.as_ptr()).vm_file;
            if file.is_null() {
                return Ok(None);
            }
            (*file).f_mapping
        };
        let Some(mapping) = NonNull::new(mapping) else {
            return Ok(None);
        };
        // SAFETY: As above.
        to_result(unsafe {
            bindings::down_read_killable(&raw mut (*mapping.as_ptr()).i_mmap_rwsem)
        })?;
        // INVARIANT: Just taken.
        Ok(Some(Self {
            mapping,
            _vma: PhantomData,
            _hold: Lock::FileMap.begin(),
            _nts: NotThreadSafe,
        }))
    }

    /// To compare with the file of a page.
    pub(crate) fn token(&self) -> FileToken {
        FileToken(self.mapping.addr().get())
    }

    /// The VMAs that map some of its pages from `first` to `last`, by the offset at which they begin.
    pub(crate) fn covering(
        &self,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = LinkedVma<'_>> {
        let ends = |at: *const bindings::rb_node| {
            // SAFETY: `at` is in the tree, whose VMAs keep their bounds while the lock is held.
            unsafe {
                let vma = container_of!(at, bindings::vm_area_struct, shared.rb);
                Ends {
                    own: LinkedVma::new(vma, (*vma).vm_pgoff).values().last_key(),
                    subtree: (*vma).shared.rb_subtree_last,
                }
            }
        };
        // SAFETY: The mapping is valid, and its lock, which guards the tree, held.
        let next = unsafe {
            let root = (*self.mapping.as_ptr()).i_mmap.rb_root.rb_node;
            first_reaching(root, first, ends)
        };
        // INVARIANT: The tree does not change while the lock is held.
        let linked = Linked {
            next,
            _guard: PhantomData,
        };
        linked
            .take_while(move |linked| linked.values().key <= last)
            .filter(move |linked| linked.values().last_key() >= first)
    }
}

impl Drop for FileGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::up_read(&raw mut (*self.mapping.as_ptr()).i_mmap_rwsem) };
    }
}

/// A walk over the VMAs that map a file.
///
/// # Invariants
///
/// `next` is null or the `shared.rb` of a VMA in a tree that cannot change for `'g`.
pub(crate) struct Linked<'g> {
    next: *const bindings::rb_node,
    _guard: PhantomData<&'g FileGuard<'g>>,
}

impl<'g> Iterator for Linked<'g> {
    type Item = LinkedVma<'g>;

    fn next(&mut self) -> Option<LinkedVma<'g>> {
        if self.next.is_null() {
            return None;
        }
        // SAFETY: By the invariant.
        unsafe {
            let vma = container_of!(self.next, bindings::vm_area_struct, shared.rb);
            self.next = bindings::rb_next(self.next);
            Some(LinkedVma::new(vma, (*vma).vm_pgoff))
        }
    }
}
