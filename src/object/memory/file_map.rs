// SPDX-License-Identifier: GPL-2.0

//! Which VMAs, in which processes, map a file.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h), `struct address_space`

use crate::bindings;
use crate::object::{
    memory::address_space::LinkedVma,
    sync::hold::{Hold, Lock},
    sync::interval::{Intersecting, IntervalNode},
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{container_of, error::to_result, mm::virt::VmaRef, prelude::*, types::NotThreadSafe};

/// Which file's pages, to compare with. It says nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileToken(usize);

impl FileToken {
    /// The address_space at an address, as a page names it.
    pub(in crate::object) fn of(address: usize) -> Self {
        Self(address)
    }
}

/// The lock of a file's reverse map (`i_mmap_rwsem`), held for reading, reached through a VMA.
///
/// It comes after mmap_lock and before an anon_vma's. No memory may be allocated meanwhile: reclaim
/// takes it.
///
/// # Invariants
///
/// `mapping` is that of the VMA's file, which the VMA keeps, and its lock is held for reading by
/// this thread.
pub(crate) struct FileGuard<'v> {
    mapping: NonNull<bindings::address_space>,
    _vma: PhantomData<&'v VmaRef>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl<'v> FileGuard<'v> {
    /// Waits for the lock; `EINTR` if a fatal signal comes first. None if the VMA has no file.
    pub(crate) fn lock(vma: &'v VmaRef) -> Result<Option<Self>> {
        // SAFETY: A `VmaRef` means that mmap_lock or the VMA's lock is held: the VMA keeps its file
        // until remove_vma(), and that its mapping.
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

    /// The VMAs that map some of its pages from `first` to `last`, by the offset at which they
    /// begin.
    pub(crate) fn covering(
        &self,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = LinkedVma<'_>> {
        // SAFETY: The mapping is valid, and its lock, which guards the tree, held for as long as
        // `self` is borrowed.
        let nodes = unsafe {
            let root = &raw const (*self.mapping.as_ptr()).i_mmap;
            Intersecting::<'_, bindings::vm_area_struct>::new(root, first, last)
        };
        // SAFETY: The VMA is in the tree, whose lock is held.
        nodes.map(|vma| unsafe { LinkedVma::new(vma, (*vma).vm_pgoff) })
    }
}

impl Drop for FileGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::up_read(&raw mut (*self.mapping.as_ptr()).i_mmap_rwsem) };
    }
}

// SAFETY: As `__mapping_rmap_tree` in mm/interval_tree.c.
unsafe impl IntervalNode for bindings::vm_area_struct {
    unsafe fn from_rb(rb: *const bindings::rb_node) -> *const Self {
        // SAFETY: `rb` is within a VMA, by the trait's requirements.
        unsafe { container_of!(rb, Self, shared.rb) }
    }

    unsafe fn rb(node: *const Self) -> *const bindings::rb_node {
        // SAFETY: The VMA is valid, by the trait's requirements.
        unsafe { &raw const (*node).shared.rb }
    }

    unsafe fn start(node: *const Self) -> usize {
        // SAFETY: The tree's lock is held, by the trait's requirements: the VMA's offset does not
        // change.
        unsafe { (*node).vm_pgoff }
    }

    unsafe fn last(node: *const Self) -> usize {
        // SAFETY: As in `start`; its bounds do not change either.
        unsafe { LinkedVma::new(node, Self::start(node)) }
            .values()
            .last_key()
    }

    unsafe fn subtree_last(node: *const Self) -> usize {
        // SAFETY: The tree's lock is held, by the trait's requirements.
        unsafe { (*node).shared.rb_subtree_last }
    }
}
