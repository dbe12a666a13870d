// SPDX-License-Identifier: GPL-2.0

//! Address spaces and their VMAs.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/mmap_lock.h`](srctree/include/linux/mmap_lock.h)

use super::{
    hold::{Hold, Lock, Rest},
    id::Id,
    process::{self, Owner, Viewpoint},
};
use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    error::{from_err_ptr, to_result},
    mm::{
        virt::{flags, VmaRef},
        Mm, MmWithUser,
    },
    page::PAGE_SIZE,
    prelude::*,
    str::CStrExt,
    sync::aref::ARef,
    task::Task,
    types::NotThreadSafe,
};

/// The longest path there is room for, in bytes with the NUL (`PATH_MAX`).
pub(crate) const PATH_MAX: usize = 4096;

/// An address space, kept from being freed but not from being emptied when its last user exits.
pub(crate) struct AddressSpace(ARef<Mm>);

impl AddressSpace {
    /// The address space of a thread; none for a kernel thread, or once it has exited.
    pub(super) fn of(task: &Task) -> Option<Self> {
        // SAFETY: `task` is a reference.
        let mm = NonNull::new(unsafe { bindings::get_task_mm(task.as_ptr()) })?;
        // SAFETY: get_task_mm() took a reference to the users, which passes to the `ARef`.
        let user = unsafe { ARef::<MmWithUser>::from_raw(mm.cast()) };
        let mm: &Mm = &user;
        Some(Self(mm.into()))
    }

    /// Keeps its mappings from being torn down, if the last user has not gone.
    ///
    /// Not to be held for long: if the process exits meanwhile, the holder tears them down.
    pub(crate) fn user(&self) -> Option<ARef<MmWithUser>> {
        self.0.mmget_not_zero()
    }

    /// Its id.
    pub(crate) fn id(&self) -> Id {
        process::mm_id(self.0.as_raw())
    }

    /// Whether `mm` is this address space.
    pub(super) fn is(&self, mm: *const bindings::mm_struct) -> bool {
        core::ptr::eq(self.0.as_raw(), mm)
    }
}

/// An address space's `mmap_lock`, held for reading.
///
/// The kernel crate's guard cannot be had in a way that a fatal signal ends, nor does it walk.
///
/// # Invariants
///
/// The lock is held by this thread.
pub(crate) struct MmapGuard<'a> {
    mm: &'a MmWithUser,
    hold: Hold,
    _nts: NotThreadSafe,
}

impl<'a> MmapGuard<'a> {
    /// Does something under the lock, then lets go of the mappings, too, and leaves the lock alone for a while where
    /// others had to wait for it. `EINTR` if a fatal signal comes before the lock is had.
    pub(crate) fn with<T>(
        user: ARef<MmWithUser>,
        f: impl FnOnce(&MmapGuard<'_>) -> T,
    ) -> Result<T> {
        let lock = MmapGuard::lock(&user)?;
        let done = f(&lock);
        let rest = lock.release();
        drop(user);
        rest.take();
        Ok(done)
    }

    /// Waits for the lock; `EINTR` if a fatal signal comes first.
    fn lock(mm: &'a MmWithUser) -> Result<Self> {
        // SAFETY: `mm` is a reference.
        to_result(unsafe { bindings::ravel_mmap_read_lock_killable(mm.as_raw()) })?;
        // INVARIANT: The lock was just taken.
        Ok(Self {
            mm,
            hold: Lock::Mmap.begin(),
            _nts: NotThreadSafe,
        })
    }

    /// Whether somebody waits for it: then it should be dropped soon.
    pub(crate) fn is_contended(&self) -> bool {
        // SAFETY: `mm` is a reference. Who waits is looked at without a lock: a hint.
        unsafe { bindings::ravel_mmap_is_contended(self.mm.as_raw()) }
    }

    /// Whether it should be dropped soon, because it is held for long, too.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_contended() || self.hold.is_long()
    }

    /// Drops it, and says for how long it is to be left alone.
    fn release(self) -> Rest {
        match self.is_contended() {
            true => self.hold.rest(),
            false => Rest::NONE,
        }
    }

    /// The first VMA that ends above `address`.
    pub(crate) fn find_vma(&self, address: usize) -> Option<&VmaRef> {
        // SAFETY: The lock is held by the type's invariant.
        let vma = unsafe { bindings::find_vma(self.mm.as_raw(), address) };
        if vma.is_null() {
            return None;
        }
        // SAFETY: The VMA is in the tree, and stays as it is while the lock is held, which the borrow
        // of `self` guarantees.
        Some(unsafe { VmaRef::from_raw(vma) })
    }
}

impl Drop for MmapGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant, by this thread.
        unsafe { bindings::mmap_read_unlock(self.mm.as_raw()) };
    }
}

/// What a VMA is called in /proc/PID/maps.
pub(crate) enum Name<'a> {
    /// Anonymous memory.
    None,
    /// The path of the mapped file.
    Path(&'a [u8]),
    /// A path longer than [`PATH_MAX`].
    TooLong,
    /// A name that the program gave it: `prctl(PR_SET_VMA_ANON_NAME)`.
    Anon(&'a [u8]),
    /// `[heap]`, `[stack]` and the like.
    Special(&'a [u8]),
}

/// What ravel reads of a VMA beyond what the kernel crate's type offers.
pub(crate) trait VmaExt {
    /// Its offset in the mapped file, in pages (`vm_pgoff`).
    fn pgoff(&self) -> usize;
    /// Its key in the anon_vma trees, in pages (`vma_start_anon_pgoff()`).
    fn anon_pgoff(&self) -> usize;
    /// `rwxp`, as in /proc/PID/maps.
    fn perms(&self) -> [u8; 4];
    /// Its name; `path` has room for one.
    fn name<'a>(&'a self, path: &'a mut [u8; PATH_MAX]) -> Name<'a>;
}

impl VmaExt for VmaRef {
    fn pgoff(&self) -> usize {
        // SAFETY: `VmaRef` means that mmap_lock is held, under which vm_pgoff does not change.
        unsafe { (*self.as_ptr()).vm_pgoff }
    }

    fn anon_pgoff(&self) -> usize {
        // SAFETY: As in `pgoff`.
        unsafe { bindings::ravel_vma_anon_pgoff(self.as_ptr()) }
    }

    fn perms(&self) -> [u8; 4] {
        let set = self.flags();
        let letter = |flag, yes, no| if set & flag != 0 { yes } else { no };
        [
            letter(flags::READ, b'r', b'-'),
            letter(flags::WRITE, b'w', b'-'),
            letter(flags::EXEC, b'x', b'-'),
            letter(flags::MAYSHARE, b's', b'p'),
        ]
    }

    fn name<'a>(&'a self, path: &'a mut [u8; PATH_MAX]) -> Name<'a> {
        // SAFETY: As in `pgoff`; the VMA holds a reference to its file.
        if !unsafe { (*self.as_ptr()).vm_file }.is_null() {
            let buf = path.as_mut_ptr();
            // SAFETY: `buf` has room for as many bytes as said, and the VMA's file is there.
            let start =
                unsafe { bindings::ravel_vma_path(self.as_ptr(), buf.cast(), PATH_MAX as i32) };
            return match from_err_ptr(start) {
                // SAFETY: d_path() answers with a string within the buffer.
                Ok(start) => Name::Path(unsafe { CStr::from_char_ptr(start) }.to_bytes()),
                Err(_) => Name::TooLong,
            };
        }
        let mut anon = core::ptr::null();
        // SAFETY: mmap_lock is held, which guards `anon_name` too.
        let special = unsafe { bindings::ravel_vma_special_name(self.as_ptr(), &mut anon) };
        if !anon.is_null() {
            // SAFETY: A string that lives as long as mmap_lock is held, by the `VmaRef`.
            Name::Anon(unsafe { CStr::from_char_ptr(anon) }.to_bytes())
        } else if !special.is_null() {
            // SAFETY: A string of the kernel's, or of the VMA's owner, which the VMA keeps.
            Name::Special(unsafe { CStr::from_char_ptr(special) }.to_bytes())
        } else {
            Name::None
        }
    }
}

/// A VMA of whatever process, as a reverse map leads to it: plain values.
#[derive(Clone, Copy)]
pub(crate) struct MemberVma {
    /// Its bounds; `end` is exclusive.
    pub(crate) start: usize,
    /// See `start`.
    pub(crate) end: usize,
    /// Its key in the tree, in pages.
    pub(crate) key: usize,
    /// Its address space.
    pub(crate) mm: Id,
}

impl MemberVma {
    /// The key of its last page.
    pub(super) fn last_key(&self) -> usize {
        self.key + (self.end - self.start) / PAGE_SIZE - 1
    }
}

/// A VMA that a reverse map leads to, of whatever process.
///
/// # Invariants
///
/// It is linked in an anon_vma's tree or in a file's, and that tree's lock is held for `'g`. So for as long
/// neither it nor its bounds change (vma_prepare(), expand_downwards() and unlink_anon_vmas() or
/// unlink_file_vma() take the lock for writing first), and neither its page tables, as a whole, nor its
/// address space is freed: free_pgtables() unlinks it before.
#[derive(Clone, Copy)]
pub(crate) struct LinkedVma<'g> {
    vma: *const bindings::vm_area_struct,
    /// Where it begins in the tree, in pages.
    key: usize,
    _lock: PhantomData<&'g ()>,
}

impl LinkedVma<'_> {
    /// # Safety
    ///
    /// The type's invariants hold; `key` is the VMA's in that tree.
    pub(super) unsafe fn new(vma: *const bindings::vm_area_struct, key: usize) -> Self {
        // INVARIANT: By the caller.
        Self {
            vma,
            key,
            _lock: PhantomData,
        }
    }

    pub(super) fn as_ptr(&self) -> *const bindings::vm_area_struct {
        self.vma
    }

    /// False for a VMA that munmap() has taken out of its address space and not yet unlinked here.
    pub(super) fn is_attached(&self) -> bool {
        // SAFETY: The VMA is valid by the type's invariant.
        unsafe { bindings::ravel_vma_is_attached(self.vma.cast_mut()) }
    }

    /// Whether somebody holds its address space's mmap_lock for writing.
    pub(super) fn is_write_locked(&self) -> bool {
        // SAFETY: The address space is not freed, by the type's invariant.
        unsafe { bindings::ravel_mm_is_write_locked(self.mm()) }
    }

    pub(super) fn mm(&self) -> *mut bindings::mm_struct {
        // SAFETY: The VMA is valid by the type's invariant, and `vm_mm` is set once.
        unsafe { (*self.vma).vm_mm }
    }

    /// Its bounds and its key.
    pub(crate) fn values(&self) -> MemberVma {
        // SAFETY: The VMA and its bounds stay as they are, by the type's invariant.
        let (start, end) = unsafe {
            let bounds = &raw const (*self.vma).__bindgen_anon_1.__bindgen_anon_1;
            ((*bounds).vm_start, (*bounds).vm_end)
        };
        MemberVma {
            start,
            end,
            key: self.key,
            mm: process::mm_id(self.mm()),
        }
    }

    /// Whose it is, seen from the process that `space` belongs to.
    pub(crate) fn owner(&self, view: &Viewpoint, space: &AddressSpace) -> Owner {
        let mm = self.mm();
        // SAFETY: The address space is not freed, by the type's invariant.
        unsafe { view.owner(mm, space.is(mm)) }
    }
}
