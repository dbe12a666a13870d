// SPDX-License-Identifier: GPL-2.0

//! Processes, held so that a number used again is never taken for the old one.
//!
//! C headers: [`include/linux/pid.h`](srctree/include/linux/pid.h),
//! [`include/linux/sched.h`](srctree/include/linux/sched.h)

use super::{id::Id, mm::AddressSpace, ring::Pids};
use crate::bindings;
use core::ptr::{self, NonNull};
use kernel::{
    prelude::*,
    sync::{aref::ARef, rcu},
    task::Task,
};

/// The greatest pid there can be (`PID_MAX_LIMIT` on 64-bit kernels).
pub(crate) const PID_MAX: i32 = 4 * 1024 * 1024;

/// How many generations [`Viewpoint::owner`] follows before it gives up.
pub(super) const GENERATIONS: u32 = 1024;

/// A process' name: that of its main thread (`task_struct.comm`).
#[derive(Clone, Copy, Default)]
pub(crate) struct Comm([u8; 16]);

impl Comm {
    /// # Safety
    ///
    /// `task` is not freed meanwhile: a reference or RCU keeps it.
    pub(super) unsafe fn of(task: *const bindings::task_struct) -> Self {
        let mut comm = [0; 16];
        for (i, to) in comm.iter_mut().enumerate() {
            // SAFETY: The caller keeps the task. The name can change under our eyes, as for all its
            // readers (get_task_comm()); each byte is read once, and its last byte is always 0.
            *to = unsafe { ptr::read_volatile((&raw const (*task).comm).cast::<u8>().add(i)) };
        }
        Self(comm)
    }

    /// The bytes before the first 0.
    pub(crate) fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(16);
        &self.0[..end]
    }
}

/// Why a process has no address space or no files to look at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// It has exited; it may still be a zombie.
    Exited,
    /// It is a kernel thread.
    KernelThread,
}

/// A process, alive or not.
///
/// # Invariants
///
/// `tgid` is the pid of a main thread, and a reference to it is owned.
pub(crate) struct Process {
    tgid: NonNull<bindings::pid>,
    nr: i32,
}

// SAFETY: References to a `struct pid` are counted atomically and can be given back from any thread.
unsafe impl Send for Process {}
// SAFETY: What is read through a shared reference is read under RCU, or by functions that lock.
unsafe impl Sync for Process {}

impl Process {
    /// Finds a process by the number of any of its threads, in the caller's pid namespace.
    ///
    /// `ESRCH` if there is none, or only what is left of one that has exited.
    pub(crate) fn find(nr: i32) -> Result<Self> {
        // SAFETY: find_get_pid() takes a number only, and looks it up under RCU.
        let pid = NonNull::new(unsafe { bindings::find_get_pid(nr) }).ok_or(ESRCH)?;
        // SAFETY: `pid` is valid: the reference just taken keeps it.
        let process = unsafe { Self::of(pid.as_ptr()) };
        // SAFETY: The reference is given back once, and `pid` not used afterwards.
        unsafe { bindings::put_pid(pid.as_ptr()) };
        let process = process.ok_or(ESRCH)?;
        if process.is_live() {
            Ok(process)
        } else {
            Err(ESRCH)
        }
    }

    /// Its number in the initial pid namespace.
    pub(crate) fn nr(&self) -> i32 {
        self.nr
    }

    /// Whether both are the same process, not merely the same number.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.tgid == other.tgid
    }

    /// A thread of it that has not begun to exit.
    ///
    /// Its main thread may be gone (a zombie) while others go on.
    pub(super) fn thread(&self) -> Option<ARef<Task>> {
        // SAFETY: `tgid` is valid by the type's invariant.
        let task = NonNull::new(unsafe { bindings::ravel_get_live_thread(self.tgid.as_ptr()) })?;
        // SAFETY: The reference that was taken passes to the `ARef`; `Task` is transparent.
        Some(unsafe { ARef::from_raw(task.cast()) })
    }

    /// The process of a pid.
    ///
    /// # Safety
    ///
    /// `pid` is not freed meanwhile.
    pub(super) unsafe fn of(pid: *mut bindings::pid) -> Option<Self> {
        // SAFETY: By the caller. The initial namespace is never freed.
        let (tgid, nr) = unsafe {
            let tgid = NonNull::new(bindings::ravel_get_tgid_pid(pid))?;
            let initial = &raw mut bindings::init_pid_ns;
            (tgid, bindings::pid_nr_ns(tgid.as_ptr(), initial))
        };
        // INVARIANT: ravel_get_tgid_pid() took the reference.
        Some(Self { tgid, nr })
    }

    /// Its main thread, alive or a zombie.
    pub(super) fn leader(&self) -> Option<ARef<Task>> {
        // SAFETY: `tgid` is valid by the type's invariant.
        let task = NonNull::new(unsafe { bindings::ravel_get_leader(self.tgid.as_ptr()) })?;
        // SAFETY: The reference that was taken passes to the `ARef`; `Task` is transparent.
        Some(unsafe { ARef::from_raw(task.cast()) })
    }

    /// Its name; none once it was reaped.
    pub(crate) fn comm(&self) -> Option<Comm> {
        let leader = self.leader()?;
        // SAFETY: `leader` is a reference.
        Some(unsafe { Comm::of(leader.as_ptr()) })
    }

    /// Whether a thread of it still runs.
    pub(crate) fn is_live(&self) -> bool {
        self.thread().is_some()
    }

    /// A thread of it that runs user space.
    pub(super) fn user_thread(&self) -> Result<ARef<Task>, Gone> {
        let thread = self.thread().ok_or(Gone::Exited)?;
        // SAFETY: `thread` is a reference.
        if unsafe { bindings::ravel_is_kthread(thread.as_ptr()) } {
            return Err(Gone::KernelThread);
        }
        Ok(thread)
    }

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

    /// Puts the processes that descend from it now into a set.
    pub(super) fn mark_descendants(&self, pids: &Pids) {
        // The reference keeps the pid.
        pids.add_descendants(self.tgid.as_ptr());
    }

    /// The place in the process tree from which relations are told.
    pub(crate) fn viewpoint(&self) -> Option<Viewpoint> {
        self.leader().map(|leader| Viewpoint { leader })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: The reference is owned by the type's invariant, and this is its end.
        unsafe { bindings::put_pid(self.tgid.as_ptr()) };
    }
}

/// How an address space's owner is related to the process a report is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The same address space.
    Itself,
    /// The report's process descends from it.
    Ancestor,
    /// It descends from the report's process.
    Descendant,
    /// Neither.
    Other,
    /// Not told: it is being forked, is exiting, or is more than [`GENERATIONS`] off.
    Unknown,
}

/// What there is to say of an address space's owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerState {
    /// A process.
    Live,
    /// fork() is making it; it has no pid yet, and all it has is a copy of its parent's.
    Forking,
    /// The owner is gone, and the address space about to go.
    Exiting,
}

/// The process that owns an address space (`mm_struct.owner`).
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    /// Its number in the initial pid namespace; 0 unless it is live.
    pub(crate) pid: i32,
    /// Its name; empty if it is exiting.
    pub(crate) comm: Comm,
    /// Whether there is one.
    pub(crate) state: OwnerState,
    /// How it is related.
    pub(crate) relation: Relation,
}

/// A process as the place from which others are ancestors and descendants.
pub(crate) struct Viewpoint {
    leader: ARef<Task>,
}

impl Viewpoint {
    /// Tells who owns `mm`; `itself`: it is the very address space of this process.
    ///
    /// # Safety
    ///
    /// `mm` is not freed meanwhile.
    pub(super) unsafe fn owner(&self, mm: *mut bindings::mm_struct, itself: bool) -> Owner {
        let rcu = rcu::read_lock();
        // SAFETY: The caller keeps `mm`, and RCU is held.
        let owner = unsafe { bindings::ravel_mm_owner(mm) };
        let gone = |state, comm| Owner {
            pid: 0,
            comm,
            state,
            relation: if itself {
                Relation::Itself
            } else {
                Relation::Unknown
            },
        };
        if owner.is_null() {
            return gone(OwnerState::Exiting, Comm::default());
        }
        // SAFETY: `owner` was read under RCU, which is still held: mm_update_next_owner() changes it
        // before the task is released, and a released task is freed a grace period later.
        let (forking, alive) = unsafe {
            (
                bindings::ravel_is_being_forked(owner),
                bindings::ravel_pid_alive(owner),
            )
        };
        if forking {
            // SAFETY: As above. The name is a copy of the parent's.
            return gone(OwnerState::Forking, unsafe { Comm::of(owner) });
        }
        if !alive {
            return gone(OwnerState::Exiting, Comm::default());
        }
        // SAFETY: As above; a task that pid_alive() has vouched for under this RCU section has a group
        // leader that is kept by it as well.
        let (pid, comm) = unsafe {
            (
                (*owner).tgid,
                Comm::of(ptr::read_volatile(&raw const (*owner).group_leader).cast_const()),
            )
        };
        Owner {
            pid,
            comm,
            state: OwnerState::Live,
            relation: if itself {
                Relation::Itself
            } else {
                self.relation(owner, &rcu)
            },
        }
    }

    /// How `task` is related to this process along `real_parent`. RCU keeps `task`.
    fn relation(&self, task: *mut bindings::task_struct, rcu: &rcu::Guard) -> Relation {
        let me = self.leader.as_ptr();
        match descends(task, me, rcu) {
            Some(true) => Relation::Descendant,
            None => Relation::Unknown,
            Some(false) => match descends(me, task, rcu) {
                Some(true) => Relation::Ancestor,
                None => Relation::Unknown,
                Some(false) => Relation::Other,
            },
        }
    }
}

/// How far one process is below another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Distance {
    /// It descends from it, by so many generations; from itself by 0.
    Below(u32),
    /// It does not.
    Apart,
    /// More than [`GENERATIONS`], if at all.
    Far,
    /// A process on the way was reaped meanwhile.
    Lost,
}

/// Whether `from` descends from the process of `to`; none if that cannot be told.
///
/// Both tasks are kept by a reference or by RCU.
fn descends(
    from: *mut bindings::task_struct,
    to: *mut bindings::task_struct,
    rcu: &rcu::Guard,
) -> Option<bool> {
    // SAFETY: `to` is kept by the caller, and its `signal` is set once.
    let wanted = unsafe { (*to).signal };
    let parent = parent(from, rcu)?;
    // SAFETY: parent() gives a task that RCU keeps.
    if unsafe { (*parent).signal } == wanted {
        return Some(true);
    }
    match distance(parent, to, rcu) {
        Distance::Below(_) => Some(true),
        Distance::Apart => Some(false),
        Distance::Far | Distance::Lost => None,
    }
}

/// The main thread of a process' parent, kept by RCU; none if the process was reaped.
///
/// `task` is kept by the caller, by a reference or by RCU.
pub(super) fn parent(
    task: *mut bindings::task_struct,
    _rcu: &rcu::Guard,
) -> Option<*mut bindings::task_struct> {
    // SAFETY: `task` is kept by the caller. Where pid_alive() holds in this RCU section, `real_parent` was
    // not stale then, and whatever task it is, it can only have been released since, and not freed. The same
    // goes for its group leader.
    unsafe {
        if !bindings::ravel_pid_alive(task) {
            return None;
        }
        let parent = bindings::ravel_real_parent(task);
        Some(ptr::read_volatile(&raw const (*parent).group_leader))
    }
}

/// How far `from` is below the process of `to`.
///
/// Both tasks are kept by a reference or by RCU.
pub(super) fn distance(
    from: *mut bindings::task_struct,
    to: *mut bindings::task_struct,
    rcu: &rcu::Guard,
) -> Distance {
    // Threads of one process share their signal_struct, and keep it for as long as they live; the group
    // leader, by contrast, may change in exec().
    // SAFETY: `to` is kept by the caller, and its `signal` is set once.
    let wanted = unsafe { (*to).signal };
    let mut task = from;
    for generation in 0..GENERATIONS {
        // SAFETY: `task` is kept by the caller, or by RCU, as parent() says.
        if unsafe { (*task).signal } == wanted {
            return Distance::Below(generation);
        }
        let Some(parent) = parent(task, rcu) else {
            return Distance::Lost;
        };
        // The first task of all is its own parent.
        if parent == task {
            return Distance::Apart;
        }
        task = parent;
    }
    Distance::Far
}

/// When the owner of `mm` was born, in nanoseconds since boot; none if it has none, or none yet.
///
/// # Safety
///
/// `mm` is not freed meanwhile.
pub(super) unsafe fn owner_born(mm: *mut bindings::mm_struct) -> Option<u64> {
    let _rcu = rcu::read_lock();
    // SAFETY: The caller keeps `mm`; RCU, which is held, keeps its owner.
    unsafe {
        let owner = bindings::ravel_mm_owner(mm);
        (!owner.is_null() && !bindings::ravel_is_being_forked(owner))
            .then(|| (*owner).start_boottime)
    }
}

/// The id of an address space.
pub(super) fn mm_id(mm: *const bindings::mm_struct) -> Id {
    Id::of(mm)
}

/// Whether the caller may know page frame numbers: with `CAP_SYS_ADMIN`, as for /proc/PID/pagemap.
pub(crate) fn may_see_frames() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::ravel_may_see_frames() }
}

/// Whether a thread has begun to exit. If it has no memory or no files any more, it has.
pub(super) fn is_exiting(task: &Task) -> bool {
    // SAFETY: `task` is a reference.
    unsafe { bindings::ravel_is_exiting(task.as_ptr()) }
}

/// Whether the caller was sent a signal that ends it.
pub(crate) fn interrupted() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::ravel_fatal_signal_pending() }
}

/// Lets others run in the midst of long work; `EINTR` if the caller was sent a signal that ends it.
pub(crate) fn pause() -> Result {
    // SAFETY: It may sleep, which a reader in the middle of a report may: it holds no guard here that forbids it.
    unsafe { bindings::ravel_cond_resched() };
    if interrupted() {
        return Err(EINTR);
    }
    Ok(())
}
