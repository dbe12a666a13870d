// SPDX-License-Identifier: GPL-2.0

//! What readers of a stream wait on, and what ends their wait: an event, a deadline, or another reader.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use super::debugfs::PollWait;
use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// A wait queue with a timer, and with an interrupt of its own to wake from wherever an event may happen.
///
/// # Invariants
///
/// It was made by `ravel_waker_new()` and is not yet freed.
pub(crate) struct Waker(NonNull<bindings::ravel_waker>);

// SAFETY: All functions may be called from any thread.
unsafe impl Send for Waker {}
// SAFETY: As above; the wait queue and the timer have locks of their own.
unsafe impl Sync for Waker {}

impl Waker {
    /// One that nobody waits for.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Allocates only.
        let waker = unsafe { bindings::ravel_waker_new() };
        // INVARIANT: Just made.
        NonNull::new(waker).map(Self).ok_or(ENOMEM)
    }

    /// For probes, that wake all whatever locks they hold.
    pub(super) fn raw(&self) -> *mut bindings::ravel_waker {
        self.0.as_ptr()
    }

    /// Wakes all, from a process.
    pub(crate) fn wake(&self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::ravel_waker_now(self.0.as_ptr()) };
    }

    /// Wakes all, also those that wait for nothing but the end, which this is.
    pub(crate) fn wake_at_end(&self) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::ravel_waker_gone(self.0.as_ptr()) };
    }

    /// Wakes all at a time, in the place of the time set before; never for none.
    pub(crate) fn wake_at(&self, time: Option<u64>) {
        // SAFETY: By the type's invariant.
        unsafe { bindings::ravel_waker_at(self.0.as_ptr(), time.unwrap_or(u64::MAX)) };
    }

    /// Has a poll() wait for this. What it waits for is to be looked at afterwards.
    pub(crate) fn join(&self, poll: &PollWait<'_>) {
        let (file, table) = poll.raw();
        // SAFETY: By the type's invariant, and that of `PollWait`. A descriptor keeps its stream, and with it this,
        // until it is closed; by then nothing of it waits any more.
        unsafe { bindings::ravel_waker_wait(self.0.as_ptr(), file, table) };
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. Probes that wake were unregistered before their sink, which owns
        // this, is dropped; and so was every descriptor closed that could wait.
        unsafe { bindings::ravel_waker_free(self.0.as_ptr()) };
    }
}
