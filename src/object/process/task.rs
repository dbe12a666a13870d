// SPDX-License-Identifier: GPL-2.0

//! Tasks of others, as RCU keeps them.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use crate::bindings;
use crate::object::{process::Comm, sync::read_once};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{container_of, sync::aref::ARef, sync::rcu, task::Task};

/// A task that is not freed for `'r`.
///
/// # Invariants
///
/// `task` is valid for `'r`: a reference keeps it, or the RCU section of the guard does
/// (`put_task_struct_rcu_user()` and delayed_put_task_struct() free a task a grace period after
/// release_task()).
#[derive(Clone, Copy)]
pub(in crate::object) struct RcuTask<'r> {
    task: NonNull<bindings::task_struct>,
    _rcu: PhantomData<&'r rcu::Guard>,
}

impl PartialEq for RcuTask<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.task == other.task
    }
}

impl<'r> RcuTask<'r> {
    /// The task of a reference.
    pub(in crate::object) fn of(task: &'r Task, _rcu: &'r rcu::Guard) -> Self {
        // INVARIANT: The reference keeps it. A reference to a task is never null.
        Self {
            // SAFETY: As above.
            task: unsafe { NonNull::new_unchecked(task.as_ptr()) },
            _rcu: PhantomData,
        }
    }

    /// The task that a pid names, as `type_` says; none if there is none, or no more.
    ///
    /// # Safety
    ///
    /// `pid` is valid.
    pub(in crate::object) unsafe fn of_pid(
        pid: *mut bindings::pid,
        type_: bindings::pid_type,
        _rcu: &'r rcu::Guard,
    ) -> Option<Self> {
        // SAFETY: The pid is valid, by this function's requirements, and RCU held.
        let task = NonNull::new(unsafe { bindings::pid_task(pid, type_) })?;
        // INVARIANT: A task that pid_task() returns under RCU is kept by it.
        Some(Self {
            task,
            _rcu: PhantomData,
        })
    }

    /// The owner of an address space; none once it has exited.
    ///
    /// # Safety
    ///
    /// `mm` is valid.
    pub(in crate::object) unsafe fn owner_of(
        mm: *mut bindings::mm_struct,
        _rcu: &'r rcu::Guard,
    ) -> Option<Self> {
        // SAFETY: The address space is valid, by this function's requirements.
        let owner = unsafe { read_once!((*mm).__bindgen_anon_1.owner) };
        // INVARIANT: mm_update_next_owner() replaces an owner before it is released, and RCU is
        // held.
        Some(Self {
            task: NonNull::new(owner)?,
            _rcu: PhantomData,
        })
    }

    /// The task of a pointer that was read from a task.
    fn next(&self, task: *mut bindings::task_struct) -> Option<Self> {
        // INVARIANT: The callers read what release_task() changes before the task pointed to is
        // released, in the RCU section that keeps this one.
        Some(Self {
            task: NonNull::new(task)?,
            _rcu: PhantomData,
        })
    }

    pub(in crate::object) fn as_ptr(&self) -> *mut bindings::task_struct {
        self.task.as_ptr()
    }

    /// Takes a reference.
    pub(in crate::object) fn get(&self) -> ARef<Task> {
        // SAFETY: The task is valid, by the type's invariant, and `Task` is transparent. As long as
        // it is, so is its reference count (a task is freed a grace period after the last reference
        // of the kernel's own).
        unsafe { (&*self.as_ptr().cast::<Task>()).into() }
    }

    /// Its process: threads of one share their signal_struct for as long as they live, while the
    /// group leader may change in exec(). To be compared only.
    pub(in crate::object) fn process(&self) -> *mut bindings::signal_struct {
        // SAFETY: The task is valid, by the type's invariant, and the field is set once.
        unsafe { (*self.as_ptr()).signal }
    }

    /// Its pid.
    pub(in crate::object) fn thread_pid(&self) -> Option<NonNull<bindings::pid>> {
        // SAFETY: The task is valid, by the type's invariant.
        NonNull::new(unsafe { read_once!((*self.as_ptr()).thread_pid) })
    }

    /// The pid of its process.
    pub(in crate::object) fn process_pid(&self) -> Option<NonNull<bindings::pid>> {
        // SAFETY: The task is valid, by the type's invariant, and keeps its signal_struct.
        NonNull::new(unsafe {
            read_once!((*self.process()).pids[bindings::pid_type_PIDTYPE_TGID as usize])
        })
    }

    /// Whether it has not been released (`pid_alive()`). If so, what it pointed to when asked is
    /// kept by RCU, too.
    pub(in crate::object) fn is_alive(&self) -> bool {
        self.thread_pid().is_some()
    }

    /// Whether copy_process() has not yet given it a pid of its own: it has a copy of its parent's,
    /// and that names another task.
    pub(in crate::object) fn is_being_forked(&self, rcu: &rcu::Guard) -> bool {
        // SAFETY: The task is valid, by the type's invariant.
        if unsafe { read_once!((*self.as_ptr()).__state) } != bindings::TASK_NEW {
            return false;
        }
        let Some(pid) = self.thread_pid() else {
            return false;
        };
        // SAFETY: The pid is its parent's or its own, and freed a grace period after them.
        let named = unsafe { RcuTask::of_pid(pid.as_ptr(), bindings::pid_type_PIDTYPE_PID, rcu) };
        named.is_none_or(|named| named.task != self.task)
    }

    /// Its `PF_*` flags.
    fn flags(&self) -> u32 {
        // SAFETY: The task is valid, by the type's invariant.
        unsafe { read_once!((*self.as_ptr()).flags) }
    }

    /// Whether it has begun to exit: do_exit() gives up memory and files after that.
    pub(in crate::object) fn is_exiting(&self) -> bool {
        self.flags() & bindings::PF_EXITING != 0
    }

    pub(in crate::object) fn is_kthread(&self) -> bool {
        self.flags() & bindings::PF_KTHREAD != 0
    }

    /// Whether it has gone through exec() since it was forked.
    pub(in crate::object) fn has_execed(&self) -> bool {
        self.flags() & bindings::PF_FORKNOEXEC == 0
    }

    /// Whether its parent waits until it exits or goes through exec().
    pub(in crate::object) fn is_vforked(&self) -> bool {
        // A kernel thread has something else there.
        // SAFETY: The task is valid, by the type's invariant.
        !self.is_kthread() && unsafe { !read_once!((*self.as_ptr()).vfork_done).is_null() }
    }

    /// Its number in the initial pid namespace.
    pub(in crate::object) fn tid(&self) -> i32 {
        // SAFETY: The task is valid, by the type's invariant.
        unsafe { read_once!((*self.as_ptr()).pid) }
    }

    /// Its process' number in the initial pid namespace.
    pub(in crate::object) fn tgid(&self) -> i32 {
        // SAFETY: The task is valid, by the type's invariant.
        unsafe { read_once!((*self.as_ptr()).tgid) }
    }

    /// When it was born, in nanoseconds since boot.
    pub(in crate::object) fn born(&self) -> u64 {
        // SAFETY: The task is valid, by the type's invariant.
        unsafe { read_once!((*self.as_ptr()).start_boottime) }
    }

    /// Its name.
    pub(in crate::object) fn comm(&self) -> Comm {
        // SAFETY: The task is valid, by the type's invariant.
        unsafe { Comm::of(self.as_ptr()) }
    }

    /// The main thread of its process; none if it was released.
    pub(in crate::object) fn leader(&self) -> Option<Self> {
        // SAFETY: The task is valid, by the type's invariant.
        let leader = unsafe { read_once!((*self.as_ptr()).group_leader) };
        // A leader is not released before its threads.
        self.is_alive().then_some(())?;
        self.next(leader)
    }

    /// The main thread of its parent; none if it was released.
    pub(in crate::object) fn parent(&self) -> Option<Self> {
        self.is_alive().then_some(())?;
        // SAFETY: The task is valid, by the type's invariant. It was alive in this RCU section: its
        // parent then, and the leader of that, can only have been released since, and not freed.
        unsafe {
            let parent = read_once!((*self.as_ptr()).real_parent);
            self.next(read_once!((*parent).group_leader))
        }
    }

    /// The task that traces it; none, too, if it was released.
    pub(in crate::object) fn tracer(&self) -> Option<Self> {
        self.is_alive().then_some(())?;
        // As ptrace_parent().
        // SAFETY: As in `parent`.
        unsafe {
            if read_once!((*self.as_ptr()).ptrace) == 0 {
                return None;
            }
            self.next(read_once!((*self.as_ptr()).parent))
        }
    }

    /// The threads of its process, from the first on.
    pub(in crate::object) fn threads(&self) -> Threads<'r> {
        // SAFETY: The task keeps its signal_struct.
        let head = unsafe { &raw const (*self.process()).thread_head };
        Threads {
            // SAFETY: As above. RCU keeps the list of threads.
            next: unsafe { read_once!((*head).next) }.cast_const(),
            head,
            _rcu: PhantomData,
        }
    }

    /// A thread of its process that has not begun to exit.
    pub(in crate::object) fn running_thread(&self) -> Option<Self> {
        self.threads().find(|thread| !thread.is_exiting())
    }
}

/// A walk over the threads of a process.
///
/// # Invariants
///
/// `head` is the list of a signal_struct that a task keeps for `'r`, and `next` in it, as RCU
/// readers see it.
pub(in crate::object) struct Threads<'r> {
    head: *const bindings::list_head,
    next: *const bindings::list_head,
    _rcu: PhantomData<&'r rcu::Guard>,
}

impl<'r> Iterator for Threads<'r> {
    type Item = RcuTask<'r>;

    fn next(&mut self) -> Option<RcuTask<'r>> {
        if core::ptr::eq(self.next, self.head) {
            return None;
        }
        // SAFETY: `next` is the `thread_node` of a thread, by the type's invariant. A thread is
        // taken off the list with list_del_rcu() when it is released, and so kept by RCU.
        let task = unsafe {
            let task = container_of!(self.next, bindings::task_struct, thread_node);
            self.next = read_once!((*self.next).next).cast_const();
            task
        };
        // INVARIANT: As above.
        Some(RcuTask {
            task: NonNull::new(task.cast_mut())?,
            _rcu: PhantomData,
        })
    }
}
