// SPDX-License-Identifier: GPL-2.0

//! What readers of a stream wait on, and what ends their wait: an event, a deadline, or another
//! reader.
//!
//! C headers: [`include/linux/wait.h`](srctree/include/linux/wait.h),
//! [`include/linux/irq_work.h`](srctree/include/linux/irq_work.h),
//! [`include/linux/hrtimer.h`](srctree/include/linux/hrtimer.h)

use crate::{
    arch::Shared,
    bindings,
    object::{compat::HRTIMER_NORESTART, debugfs::PollWait, gfp},
};
use core::{mem::offset_of, pin::Pin, ptr};
use kernel::{
    bindings::hrtimer_restart,
    ffi::{c_int, c_uint, c_void},
    prelude::*,
    static_lock_class,
    str::CStrExt,
    types::Opaque,
};

/// A wait queue with a timer, and with an interrupt of its own to wake from wherever an event may
/// happen.
pub(crate) struct Waker(Pin<KBox<Parts>>);

/// # Invariants
///
/// All parts are set up.
#[repr(C)]
struct Parts {
    /// Somebody looked for events, found nothing, and wants to know of the next. Set by readers,
    /// cleared before they are woken.
    is_awaited: Shared<bool>,
    wait: Opaque<bindings::wait_queue_head>,
    work: Opaque<bindings::irq_work>,
    timer: Opaque<bindings::hrtimer>,
}

// SAFETY: All functions may be called from any thread.
unsafe impl Send for Parts {}
// SAFETY: As above; the wait queue and the timer have locks of their own.
unsafe impl Sync for Parts {}

impl Waker {
    /// Returns one that nobody waits for.
    pub(crate) fn new() -> Result<Self> {
        let parts = Parts {
            is_awaited: Shared::new(false),
            wait: Opaque::uninit(),
            work: Opaque::zeroed(),
            timer: Opaque::uninit(),
        };
        let parts = KBox::pin(parts, gfp())?;
        // SAFETY: None of these is used yet, and all stay where they are. An irq_work of zeroes is
        // one that is not queued.
        unsafe {
            bindings::__init_waitqueue_head(
                parts.wait.get(),
                c"ravel".as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
            (*parts.work.get()).func = Some(work);
            bindings::hrtimer_setup(
                parts.timer.get(),
                Some(timer),
                bindings::CLOCK_BOOTTIME as c_int,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS_SOFT,
            );
        }
        // INVARIANT: Just set up.
        Ok(Self(parts))
    }

    /// Returns whether the next event is to wake somebody.
    #[inline(always)]
    pub(in crate::object) fn is_awaited(&self) -> bool {
        self.0.is_awaited.load()
    }

    /// Has the next event wake all. Whoever calls this has a full barrier before he looks whether
    /// there is one already.
    pub(crate) fn await_event(&self) {
        self.0.is_awaited.store(true);
    }

    /// Wakes all, whatever locks are held here: leaves it, which takes one, to an interrupt of its
    /// own.
    #[cold]
    pub(in crate::object) fn wake_by_interrupt(&self) {
        // SAFETY: By the type's invariant; may be called anywhere but from an NMI that interrupts
        // it.
        unsafe { bindings::irq_work_queue(self.0.work.get()) };
    }

    /// Wakes all, from a process.
    pub(crate) fn wake(&self) {
        self.0.wake();
    }

    /// Wakes all, also those that wait for nothing but the end, which this is.
    pub(crate) fn wake_at_end(&self) {
        let ends = bindings::POLLHUP | bindings::POLLERR;
        self.0.wake_for(bindings::TASK_NORMAL, READABLE | ends);
    }

    /// Wakes all at a time, instead of the time set before; never for none.
    pub(crate) fn wake_at(&self, time: Option<u64>) {
        let timer = self.0.timer.get();
        let time = time.and_then(|time| i64::try_from(time).ok());
        // SAFETY: By the type's invariant.
        unsafe {
            match time {
                Some(time) => bindings::hrtimer_start_range_ns(
                    timer,
                    time,
                    0,
                    bindings::hrtimer_mode_HRTIMER_MODE_ABS_SOFT,
                ),
                None => {
                    bindings::hrtimer_try_to_cancel(timer);
                }
            }
        }
    }

    /// Has a poll() wait for this. What it waits for is to be looked at afterwards.
    pub(crate) fn join(&self, poll: &PollWait<'_>) {
        let (file, table) = poll.raw();
        // SAFETY: By the type's invariant, and that of `PollWait`. A descriptor keeps its stream,
        // and with it this, until it is closed; by then nothing of it waits any more.
        unsafe { bindings::poll_wait(file, self.0.wait.get(), table) };
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. Probes that wake were unregistered before their sink,
        // which owns this, is dropped; and so was every descriptor closed that could wait. None of
        // the two runs after this.
        unsafe {
            bindings::hrtimer_cancel(self.0.timer.get());
            bindings::irq_work_sync(self.0.work.get());
        }
    }
}

/// What poll() reports where there is something to read.
const READABLE: u32 = bindings::POLLIN | bindings::POLLRDNORM;

impl Parts {
    fn wake(&self) {
        self.wake_for(bindings::TASK_INTERRUPTIBLE, READABLE);
    }

    fn wake_for(&self, state: c_uint, events: u32) {
        let key = ptr::without_provenance_mut::<c_void>(events as usize);
        // SAFETY: By the type's invariant. Callbacks of poll() take the key for what has happened.
        unsafe { bindings::__wake_up(self.wait.get(), state, 1, key) };
    }
}

/// # Safety
///
/// `work` is that of a [`Parts`], which waits for this before it is freed.
unsafe extern "C" fn work(work: *mut bindings::irq_work) {
    // SAFETY: By this function's contract.
    let parts = unsafe { &*work.byte_sub(offset_of!(Parts, work)).cast::<Parts>() };
    // Before they look: whoever finds nothing sets it again.
    parts.is_awaited.store(false);
    parts.wake();
}

/// # Safety
///
/// `timer` is that of a [`Parts`], which waits for this before it is freed.
unsafe extern "C" fn timer(timer: *mut bindings::hrtimer) -> hrtimer_restart {
    // SAFETY: By this function's contract.
    let parts = unsafe { &*timer.byte_sub(offset_of!(Parts, timer)).cast::<Parts>() };
    parts.wake();
    HRTIMER_NORESTART
}
