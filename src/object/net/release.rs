// SPDX-License-Identifier: GPL-2.0

//! Releases the last references to open files.
//!
//! fput() of the last reference puts the file's release off until the task returns to user mode,
//! which a reader does only when its chunk is complete, and the release may sleep there for as long
//! as `SO_LINGER` says. So references that may be the last are passed to a workqueue, which
//! releases each file at once and by a worker of its own.

use crate::bindings;
use crate::object::{compat::this_module, gfp};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    str::CStrExt,
    sync::atomic::{Atomic, Relaxed, Release},
    sync::SetOnce,
    workqueue::Queue,
};

/// A workqueue, or null.
struct Workqueue(*mut kernel::bindings::workqueue_struct);

// SAFETY: Workqueues may be used from any thread.
unsafe impl Send for Workqueue {}
// SAFETY: As above.
unsafe impl Sync for Workqueue {}

static WORKQUEUE: SetOnce<Workqueue> = SetOnce::new();

/// The workqueue. Dropped after everything that has open files.
pub(crate) struct Releases(());

impl Releases {
    /// Makes the workqueue, before any file is opened. `EBUSY`: there is one.
    pub(crate) fn new() -> Result<Self> {
        if WORKQUEUE.as_ref().is_some() {
            return Err(EBUSY);
        }
        // SAFETY: The name is a string without a conversion. By default, 1,024 files can be released
        // at once (WQ_DFL_ACTIVE): so many can linger before another has to wait.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"ravel".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                0,
            )
        };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        WORKQUEUE.populate(Workqueue(queue));
        Ok(Self(()))
    }
}

impl Drop for Releases {
    fn drop(&mut self) {
        if let Some(queue) = WORKQUEUE.as_ref() {
            // SAFETY: The module goes, no file is open any more, and so nothing is queued. This
            // waits for what was.
            unsafe { bindings::destroy_workqueue(queue.0) };
        }
    }
}

/// A reference to an open file on its way to the worker.
struct LastReference(NonNull<bindings::file>);

// SAFETY: References to files are counted atomically, and may be released by any thread.
unsafe impl Send for LastReference {}

impl LastReference {
    /// Releases it, by a worker.
    fn release(self) {
        // SAFETY: The reference is owned, and this is its end. A worker is here, which holds no
        // lock. The module's reference was taken by put(); until this function has returned, the
        // module's exit waits for the workqueue.
        unsafe {
            bindings::__fput_sync(self.0.as_ptr());
            bindings::module_put(this_module());
        }
    }
}

/// Releases a reference to an open file: if it is the last one, by a worker, and at once.
///
/// Where there is no memory for that, the file is released when the caller returns to user mode.
///
/// # Safety
///
/// A reference to `file` is owned, and passes to this function. The caller may sleep.
pub(in crate::object) unsafe fn put(file: NonNull<bindings::file>) {
    // SAFETY: The caller's reference keeps the file. All others access the count atomically.
    let count = unsafe { Atomic::<i64>::from_ptr((&raw mut (*file.as_ptr()).f_ref.refcnt).cast()) };
    // The count of one reference is 0 (FILE_REF_ONEREF), and others than valid ones are negative.
    let mut before = count.load(Relaxed);
    while before > 0 {
        match count.cmpxchg(before, before.wrapping_sub(1), Release) {
            Ok(_) => return,
            Err(now) => before = now,
        }
    }
    let last = LastReference(file);
    // A release can linger for as long as the file's user has asked (SO_LINGER): rmmod reports
    // meanwhile that the module is in use, instead of waiting.
    // SAFETY: It is this module, whose code runs.
    let is_kept = unsafe { bindings::try_module_get(this_module()) };
    let spawned = WORKQUEUE.as_ref().filter(|_| is_kept).map(|queue| {
        // SAFETY: The workqueue lives as long as anything has open files.
        let queue = unsafe { Queue::from_raw(queue.0) };
        queue.try_spawn(gfp(), move || last.release())
    });
    if !matches!(spawned, Some(Ok(()))) {
        // SAFETY: The closure was dropped without running, and so without releasing: the reference
        // is still owned, and so is that to the module, if it was taken. The caller is in a call of
        // an open file, which keeps the module, too.
        unsafe {
            bindings::fput(file.as_ptr());
            if is_kept {
                bindings::module_put(this_module());
            }
        }
    }
}
