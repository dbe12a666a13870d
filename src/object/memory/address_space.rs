// SPDX-License-Identifier: GPL-2.0

//! Address spaces and their VMAs.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/mmap_lock.h`](srctree/include/linux/mmap_lock.h)

use crate::bindings;
use crate::object::{
    compat::{anon_pgoff, MAYSHARE},
    process::{self, is_exiting, Gone, Owner, Process, Viewpoint},
    sync::hold::{Hold, Lock},
    sync::id::Id,
    sync::read_once,
};
use core::{marker::PhantomData, ops::Deref, ptr::NonNull};
use kernel::{
    error::{from_err_ptr, to_result},
    mm::{
        virt::{flags, VmaRef},
        Mm, MmWithUser,
    },
    page::PAGE_SIZE,
    prelude::*,
    str::CStrExt,
    sync::{aref::ARef, rcu},
    task::Task,
    types::NotThreadSafe,
};

/// The longest path there is room for, in bytes with the NUL (`PATH_MAX`).
pub(crate) const PATH_MAX: usize = 4096;

/// An address space, kept from being freed but not from being emptied when its last user exits.
pub(crate) struct AddressSpace(ARef<Mm>);

impl AddressSpace {
    /// The address space of a thread; none for a kernel thread, or once it has exited.
    pub(in crate::object) fn of(task: &Task) -> Option<Self> {
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
    pub(in crate::object) fn is(&self, mm: *const bindings::mm_struct) -> bool {
        core::ptr::eq(self.0.as_raw(), mm)
    }
}

impl Process {
    /// The address space that it has now.
    pub(crate) fn address_space(&self) -> Result<AddressSpace, Gone> {
        loop {
            let thread = self.user_thread()?;
            match AddressSpace::of(&thread) {
                Some(space) => return Ok(space),
                // It began to exit just now; others may go on.
                None if is_exiting(&thread) => {}
                None => return Err(Gone::Exited),
            }
        }
    }
}

/// The VMAs of an address space, one locked at a time.
///
/// This follows lock_next_vma() in mm/mmap_lock.c, which is not exported: a VMA is found under RCU
/// and its own lock taken for reading, so that only who changes that VMA waits. `mmap_lock` is
/// taken only where that fails, and only until the VMA is locked.
pub(crate) struct Vmas(ARef<MmWithUser>);

/// How a look under RCU ended.
enum Look<'a> {
    Found(VmaGuard<'a>),
    /// There is no VMA.
    End,
    /// The address space changed meanwhile, or the VMA is locked for writing.
    Failed,
}

impl Vmas {
    pub(crate) fn of(user: ARef<MmWithUser>) -> Self {
        Self(user)
    }

    /// Locks the first VMA that ends above `address`. `EINTR` if a fatal signal comes first.
    pub(crate) fn lock_next(&self, address: usize) -> Result<Option<VmaGuard<'_>>> {
        match self.look(address) {
            Look::Found(vma) => Ok(Some(vma)),
            Look::End => Ok(None),
            Look::Failed => self.lock_under_mmap_lock(address),
        }
    }

    fn look(&self, address: usize) -> Look<'_> {
        let mut seq = 0;
        // SAFETY: `self.0` is a reference.
        let steady = unsafe { bindings::mmap_lock_speculate_try_begin(self.0.as_raw(), &mut seq) };
        let changed = || {
            // SAFETY: `self.0` is a reference.
            !steady || unsafe { bindings::mmap_lock_speculate_retry(self.0.as_raw(), seq) }
        };
        let Some((found, start)) = self.first(address) else {
            return if changed() { Look::Failed } else { Look::End };
        };
        // SAFETY: `self.0` is a reference to an address space with users.
        let vma = unsafe { bindings::lock_vma_under_rcu(self.0.as_raw(), start.max(address)) };
        if vma.is_null() {
            return Look::Failed;
        }
        // SAFETY: lock_vma_under_rcu() has locked it for reading, and it is attached.
        let guard = unsafe { VmaGuard::new(vma) };
        // Before a VMA that starts later there may be one now, or one that was shrunk.
        if guard.start() > address && changed() {
            let again = self.first(address);
            if found != vma.addr() || again.is_none_or(|(again, _)| again != found) {
                return Look::Failed;
            }
        }
        Look::Found(guard)
    }

    /// The address of the first VMA that ends above `address`, and where it starts. Both may have
    /// changed since.
    fn first(&self, address: usize) -> Option<(usize, usize)> {
        let _rcu = rcu::read_lock();
        // SAFETY: All zeroes is a state without a node, and `self.0` a reference. The tree of VMAs
        // is read under RCU, which keeps the VMA from being used for anything else: its bounds can
        // be read, though they may be those of a VMA that took its place
        // (SLAB_TYPESAFE_BY_RCU).
        unsafe {
            let mut state = bindings::ma_state {
                tree: &raw mut (*self.0.as_raw()).__bindgen_anon_1.mm_mt,
                index: address,
                last: address,
                max: usize::MAX,
                status: bindings::maple_status_ma_start,
                ..core::mem::zeroed()
            };
            let vma: *mut bindings::vm_area_struct =
                bindings::mas_find(&mut state, usize::MAX).cast();
            if vma.is_null() {
                return None;
            }
            let bounds = &raw const (*vma).__bindgen_anon_1.__bindgen_anon_1;
            Some((vma.addr(), read_once!((*bounds).vm_start)))
        }
    }

    fn lock_under_mmap_lock(&self, address: usize) -> Result<Option<VmaGuard<'_>>> {
        let mm = self.0.as_raw();
        loop {
            // SAFETY: `self.0` is a reference.
            to_result(unsafe { bindings::mmap_read_lock_killable(mm) })?;
            let hold = Lock::Mmap.begin();
            // SAFETY: mmap_lock is held, under which a VMA is not locked for writing.
            let (vma, locked) = unsafe {
                let vma = bindings::find_vma(mm, address);
                let locked = !vma.is_null() && bindings::vma_start_read_locked(vma);
                bindings::mmap_read_unlock(mm);
                (vma, locked)
            };
            drop(hold);
            if vma.is_null() {
                return Ok(None);
            }
            if locked {
                // SAFETY: vma_start_read_locked() has locked it for reading, and it was attached.
                return Ok(Some(unsafe { VmaGuard::new(vma) }));
            }
            // Its count is full of readers.
            process::pause()?;
        }
    }
}

/// A VMA whose lock is held for reading.
///
/// # Invariants
///
/// The lock is held by this thread (`vma_start_read()`). Who takes it for writing
/// (`vma_start_write()`), as is done before a VMA is detached, moved, split or merged, waits.
pub(crate) struct VmaGuard<'a> {
    vma: &'a VmaRef,
    hold: Hold,
    _nts: NotThreadSafe,
}

impl VmaGuard<'_> {
    /// # Safety
    ///
    /// The VMA is attached, and this thread has locked it for reading. The result unlocks it.
    unsafe fn new(vma: *mut bindings::vm_area_struct) -> Self {
        // INVARIANT: By this function's requirements.
        Self {
            // SAFETY: As above: it stays valid while it is locked.
            vma: unsafe { VmaRef::from_raw(vma) },
            hold: Lock::Mmap.begin(),
            _nts: NotThreadSafe,
        }
    }

    /// Whether it should be unlocked soon: it is locked for long, or for a while and somebody
    /// waits.
    pub(crate) fn is_wanted(&self) -> bool {
        // SAFETY: The VMA is valid, by the type's invariant.
        let count = unsafe { read_once!((*self.vma.as_ptr()).vm_refcnt.refs.counter) };
        let contended = count as u32 & bindings::VM_REFCNT_EXCLUDE_READERS_FLAG != 0;
        self.hold.is_long(contended)
    }
}

impl Deref for VmaGuard<'_> {
    type Target = VmaRef;

    fn deref(&self) -> &VmaRef {
        self.vma
    }
}

impl Drop for VmaGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type's invariant.
        unsafe { bindings::vma_end_read(self.vma.as_ptr()) };
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
    /// A name that the program gave to anonymous memory: `prctl(PR_SET_VMA_ANON_NAME)`.
    Anon(&'a [u8]),
    /// A name that the program gave to shared anonymous memory.
    AnonShmem(&'a [u8]),
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
        // SAFETY: A `VmaRef` means that mmap_lock or the VMA's lock is held; vm_pgoff changes under
        // both held for writing.
        unsafe { (*self.as_ptr()).vm_pgoff }
    }

    fn anon_pgoff(&self) -> usize {
        // SAFETY: As in `pgoff`.
        unsafe { anon_pgoff(self.as_ptr()) }
    }

    fn perms(&self) -> [u8; 4] {
        let set = self.flags();
        let letter = |flag, yes, no| if set & flag != 0 { yes } else { no };
        [
            letter(flags::READ, b'r', b'-'),
            letter(flags::WRITE, b'w', b'-'),
            letter(flags::EXEC, b'x', b'-'),
            letter(MAYSHARE, b's', b'p'),
        ]
    }

    fn name<'a>(&'a self, path: &'a mut [u8; PATH_MAX]) -> Name<'a> {
        let anon = anon_name(self);
        // SAFETY: A `VmaRef` means that mmap_lock or the VMA's lock is held, so that it keeps its
        // file and operations.
        let (file, ops) = unsafe { ((*self.as_ptr()).vm_file, (*self.as_ptr()).vm_ops) };
        if !file.is_null() {
            return match anon {
                Some(name) => Name::AnonShmem(name),
                // SAFETY: The VMA keeps its file.
                None => unsafe { path_of(file, path) },
            };
        }
        // SAFETY: As above. The function is the driver's, and is called as by get_vma_name().
        let special = unsafe {
            let name = if ops.is_null() { None } else { (*ops).name };
            name.map_or(core::ptr::null(), |name| name(self.as_ptr()))
        };
        if !special.is_null() {
            // SAFETY: A string of the kernel's, or of the VMA's owner, which the VMA keeps.
            return Name::Special(unsafe { CStr::from_char_ptr(special) }.to_bytes());
        }
        // SAFETY: The VMA keeps its address space. What another thread may change meanwhile (brk(),
        // prctl()) is read once.
        let (brk, start_brk, start_stack) = unsafe {
            let mm = &raw const (*(*self.as_ptr()).vm_mm).__bindgen_anon_1;
            (
                read_once!((*mm).brk) as usize,
                read_once!((*mm).start_brk) as usize,
                read_once!((*mm).start_stack) as usize,
            )
        };
        // As vma_is_initial_heap() and vma_is_initial_stack().
        if self.start() < brk && self.end() > start_brk {
            Name::Special(b"[heap]")
        } else if self.start() <= start_stack && self.end() >= start_stack {
            Name::Special(b"[stack]")
        } else {
            anon.map_or(Name::None, Name::Anon)
        }
    }
}

/// The name that the program gave to a VMA.
#[cfg(CONFIG_ANON_VMA_NAME)]
fn anon_name(vma: &VmaRef) -> Option<&[u8]> {
    // SAFETY: A `VmaRef` means that mmap_lock or the VMA's lock is held; a name is replaced under
    // both held for writing.
    unsafe {
        let name = (*vma.as_ptr()).anon_name;
        let name = if name.is_null() {
            return None;
        } else {
            &raw const (*name).name
        };
        Some(CStr::from_char_ptr(name.cast()).to_bytes())
    }
}

#[cfg(not(CONFIG_ANON_VMA_NAME))]
fn anon_name(_vma: &VmaRef) -> Option<&[u8]> {
    None
}

/// The path of a file.
///
/// # Safety
///
/// The file is not closed meanwhile.
unsafe fn path_of<'a>(file: *mut bindings::file, path: &'a mut [u8; PATH_MAX]) -> Name<'a> {
    let buffer = path.as_mut_ptr().cast();
    // SAFETY: The file is not closed, by this function's requirements; the buffer has room for as
    // many bytes as is said.
    let start =
        unsafe { bindings::d_path(bindings::file_user_path(file), buffer, PATH_MAX as i32) };
    match from_err_ptr(start) {
        // SAFETY: d_path() returns a string within the buffer.
        Ok(start) => Name::Path(unsafe { CStr::from_char_ptr(start) }.to_bytes()),
        Err(_) => Name::TooLong,
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
    pub(in crate::object) fn last_key(&self) -> usize {
        // It wraps where the kernel's own does (vma_last_pgoff()).
        let pages = self.end.wrapping_sub(self.start) / PAGE_SIZE;
        self.key.wrapping_add(pages).wrapping_sub(1)
    }
}

/// A VMA that a reverse map leads to, of whatever process.
///
/// # Invariants
///
/// It is linked in an anon_vma's tree or in a file's, and that tree's lock is held for `'g`. So for
/// as long neither it nor its bounds change (vma_prepare(), expand_downwards() and
/// unlink_anon_vmas() or unlink_file_vma() take the lock for writing first), and neither its page
/// tables, as a whole, nor its address space is freed: free_pgtables() unlinks it before.
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
    pub(in crate::object) unsafe fn new(vma: *const bindings::vm_area_struct, key: usize) -> Self {
        // INVARIANT: By the caller.
        Self {
            vma,
            key,
            _lock: PhantomData,
        }
    }

    pub(in crate::object) fn as_ptr(&self) -> *const bindings::vm_area_struct {
        self.vma
    }

    /// False for a VMA that munmap() has taken out of its address space and not yet unlinked here.
    pub(in crate::object) fn is_attached(&self) -> bool {
        // As vma_is_attached(): vma_mark_detached() sets the count to 0.
        // SAFETY: The VMA is valid by the type's invariant. Others count their locks of it
        // meanwhile.
        unsafe { read_once!((*self.vma).vm_refcnt.refs.counter) != 0 }
    }

    /// Whether its address space's mmap_lock is held for writing; with PREEMPT_RT, in any way.
    pub(in crate::object) fn is_write_locked(&self) -> bool {
        // SAFETY: The address space is not freed, by the type's invariant. The lock's state is a
        // hint.
        unsafe {
            let lock = &raw mut (*self.mm()).__bindgen_anon_1.mmap_lock;
            #[cfg(CONFIG_PREEMPT_RT)]
            return bindings::rwsem_is_locked(lock) != 0;
            #[cfg(not(CONFIG_PREEMPT_RT))]
            return read_once!((*lock).count.counter) as usize
                & bindings::RWSEM_WRITER_LOCKED as usize
                != 0;
        }
    }

    pub(in crate::object) fn mm(&self) -> *mut bindings::mm_struct {
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
