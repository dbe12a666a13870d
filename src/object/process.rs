// SPDX-License-Identifier: GPL-2.0

//! Processes, held so that a number used again is never taken for the old one.
//!
//! C headers: [`include/linux/pid.h`](srctree/include/linux/pid.h),
//! [`include/linux/sched.h`](srctree/include/linux/sched.h)

pub(crate) mod lineage;
pub(crate) mod pids;
mod task;

use crate::bindings;
use crate::object::sync::id::Id;
use core::ptr::{self, NonNull};
use kernel::{
    prelude::*,
    sync::{aref::ARef, rcu},
    task::Task,
};
use task::RcuTask;

/// The greatest pid there can be (`PID_MAX_LIMIT` on 64-bit kernels).
pub(crate) const PID_MAX: i32 = 4 * 1024 * 1024;

/// How many generations [`Viewpoint::owner`] follows before it gives up.
pub(in crate::object) const GENERATIONS: u32 = 1024;

/// A process' name: that of its main thread (`task_struct.comm`).
#[derive(Clone, Copy, Default)]
pub(crate) struct Comm([u8; 16]);

impl Comm {
    /// # Safety
    ///
    /// `task` is not freed meanwhile: a reference or RCU keeps it.
    pub(in crate::object) unsafe fn of(task: *const bindings::task_struct) -> Self {
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

// SAFETY: References to a `struct pid` are counted atomically and can be given back from any
// thread.
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

    /// Its main thread; none if it was reaped.
    fn leader_under<'r>(&self, rcu: &'r rcu::Guard) -> Option<RcuTask<'r>> {
        // SAFETY: `tgid` is valid by the type's invariant.
        unsafe { RcuTask::of_pid(self.tgid.as_ptr(), bindings::pid_type_PIDTYPE_TGID, rcu) }
    }

    /// A thread of it that has not begun to exit.
    ///
    /// Its main thread may be gone (a zombie) while others go on.
    pub(in crate::object) fn thread(&self) -> Option<ARef<Task>> {
        let rcu = rcu::read_lock();
        let thread = self.leader_under(&rcu)?.running_thread()?;
        Some(thread.get())
    }

    /// The process of a pid.
    ///
    /// # Safety
    ///
    /// `pid` is valid.
    pub(in crate::object) unsafe fn of(pid: *mut bindings::pid) -> Option<Self> {
        let rcu = rcu::read_lock();
        // SAFETY: The pid is valid, by this function's requirements.
        let task = unsafe { RcuTask::of_pid(pid, bindings::pid_type_PIDTYPE_PID, &rcu) }?;
        // INVARIANT: It is a process' pid; the reference is taken while RCU keeps it (free_pid()).
        let tgid = task.process_pid()?;
        // SAFETY: As above. The initial namespace is never freed.
        let nr = unsafe {
            bindings::get_pid(tgid.as_ptr());
            bindings::pid_nr_ns(tgid.as_ptr(), &raw mut bindings::init_pid_ns)
        };
        Some(Self { tgid, nr })
    }

    /// Its main thread, alive or a zombie.
    pub(in crate::object) fn leader(&self) -> Option<ARef<Task>> {
        let rcu = rcu::read_lock();
        self.leader_under(&rcu).map(|leader| leader.get())
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
    pub(in crate::object) fn user_thread(&self) -> Result<ARef<Task>, Gone> {
        let thread = self.thread().ok_or(Gone::Exited)?;
        if RcuTask::of(&thread, &rcu::read_lock()).is_kthread() {
            return Err(Gone::KernelThread);
        }
        Ok(thread)
    }

    /// The place in the process tree from which relations are seen.
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
    /// Not known: it is being forked, is exiting, or is more than [`GENERATIONS`] off.
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
    /// Returns the owner of `mm`; `itself`: it is the very address space of this process.
    ///
    /// # Safety
    ///
    /// `mm` is not freed meanwhile.
    pub(in crate::object) unsafe fn owner(
        &self,
        mm: *mut bindings::mm_struct,
        itself: bool,
    ) -> Owner {
        let rcu = rcu::read_lock();
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
        // SAFETY: `mm` is valid, by this function's requirements.
        let Some(owner) = (unsafe { RcuTask::owner_of(mm, &rcu) }) else {
            return gone(OwnerState::Exiting, Comm::default());
        };
        if owner.is_being_forked(&rcu) {
            // The name is a copy of the parent's.
            return gone(OwnerState::Forking, owner.comm());
        }
        let Some(leader) = owner.leader() else {
            return gone(OwnerState::Exiting, Comm::default());
        };
        let (pid, comm) = (owner.tgid(), leader.comm());
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

    /// How a task is related to this process along `real_parent`.
    fn relation(&self, task: RcuTask<'_>, rcu: &rcu::Guard) -> Relation {
        let me = RcuTask::of(&self.leader, rcu);
        match descends(task, me) {
            Some(true) => Relation::Descendant,
            None => Relation::Unknown,
            Some(false) => match descends(me, task) {
                Some(true) => Relation::Ancestor,
                None => Relation::Unknown,
                Some(false) => Relation::Other,
            },
        }
    }
}

/// How far one process is below another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::object) enum Distance {
    /// It descends from it, by so many generations; from itself by 0.
    Below(u32),
    /// It does not.
    Apart,
    /// More than [`GENERATIONS`], if at all.
    Far,
    /// A process on the way was reaped meanwhile.
    Lost,
}

/// Whether `from` descends from the process of `to`; none if that is not known.
fn descends(from: RcuTask<'_>, to: RcuTask<'_>) -> Option<bool> {
    let parent = from.parent()?;
    if parent.process() == to.process() {
        return Some(true);
    }
    match distance(parent, to) {
        Distance::Below(_) => Some(true),
        Distance::Apart => Some(false),
        Distance::Far | Distance::Lost => None,
    }
}

/// How far `from` is below the process of `to`.
pub(in crate::object) fn distance(from: RcuTask<'_>, to: RcuTask<'_>) -> Distance {
    let mut task = from;
    for generation in 0..GENERATIONS {
        if task.process() == to.process() {
            return Distance::Below(generation);
        }
        let Some(parent) = task.parent() else {
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

/// Whether and when the owner of an address space was born.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::object) enum Born {
    /// At that time, in nanoseconds since boot.
    At(u64),
    /// fork() is making it.
    Not,
    /// It has exited.
    Gone,
}

/// When the owner of `mm` was born.
///
/// # Safety
///
/// `mm` is valid.
pub(in crate::object) unsafe fn owner_born(mm: *mut bindings::mm_struct) -> Born {
    let rcu = rcu::read_lock();
    // SAFETY: The address space is valid, by this function's requirements.
    match unsafe { RcuTask::owner_of(mm, &rcu) } {
        None => Born::Gone,
        Some(owner) if owner.is_being_forked(&rcu) => Born::Not,
        Some(owner) => Born::At(owner.born()),
    }
}

/// The id of an address space.
pub(in crate::object) fn mm_id(mm: *const bindings::mm_struct) -> Id {
    Id::of(mm)
}

/// Whether the caller may know page frame numbers: with `CAP_SYS_ADMIN`, as for /proc/PID/pagemap.
pub(crate) fn may_see_frames() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as i32) }
}

/// Whether a thread has begun to exit. If it has no memory or no files any more, it has.
pub(in crate::object) fn is_exiting(task: &Task) -> bool {
    RcuTask::of(task, &rcu::read_lock()).is_exiting()
}

/// Whether the caller was sent a signal that ends it.
pub(crate) fn interrupted() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::fatal_signal_pending(bindings::get_current()) }
}

/// Lets others run in the midst of long work; `EINTR` if the caller was sent a signal that ends it.
pub(crate) fn pause() -> Result {
    // SAFETY: It may sleep, which a reader in the middle of a report may: it holds no guard here
    // that forbids it.
    unsafe { bindings::cond_resched() };
    if interrupted() {
        return Err(EINTR);
    }
    Ok(())
}
