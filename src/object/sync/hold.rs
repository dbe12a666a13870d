// SPDX-License-Identifier: GPL-2.0

//! How long locks are held: what ravel costs those that it looks at, measured by itself.

use kernel::{
    sync::atomic::{Atomic, Relaxed},
    time::{Instant, Monotonic},
};

/// The locks that ravel takes and that others wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// A process' `mmap_lock`, or the lock of one of its VMAs, for reading.
    Mmap,
    /// An anon_vma root's `rwsem`, for reading.
    AnonVma,
    /// A file's `i_mmap_rwsem`, for reading.
    FileMap,
    /// A socket's spinlock (`sk_lock.slock`), with bottom halves off.
    Socket,
    /// The lock of a queue of sk_buffs, with bottom halves off.
    Queue,
    /// A unix socket's state lock.
    Unix,
    /// The lock of a wait queue, with interrupts off.
    Wait,
    /// A task's `alloc_lock` (`task_lock()`), with the `file_lock` of its table of descriptors.
    Descriptors,
    /// An io_uring's `uring_lock`.
    Ring,
}

impl Lock {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Mmap,
        Self::AnonVma,
        Self::FileMap,
        Self::Socket,
        Self::Queue,
        Self::Unix,
        Self::Wait,
        Self::Descriptors,
        Self::Ring,
    ];

    /// The longest hold since the module was loaded, or since [`Self::forget`], in nanoseconds.
    pub(crate) fn longest(self) -> i64 {
        LONGEST[self as usize].load(Relaxed)
    }

    /// Begins anew.
    pub(crate) fn forget(self) {
        LONGEST[self as usize].store(0, Relaxed);
    }

    /// Begins a hold, which ends when the result is dropped.
    pub(in crate::object) fn begin(self) -> Hold {
        Hold {
            lock: self,
            since: Instant::now(),
        }
    }
}

static LONGEST: [Atomic<i64>; Lock::ALL.len()] = [const { Atomic::new(0) }; Lock::ALL.len()];

/// After how many nanoseconds a hold that need not go on should end.
const LONG: i64 = 2_000_000;

/// For how many nanoseconds a hold goes on although others wait: so long that a walk gets on where
/// somebody always waits.
const SHORT: i64 = 500_000;

/// A hold under way. A guard has it as a field: fields are dropped after the guard's `drop()` has
/// unlocked.
pub(crate) struct Hold {
    lock: Lock,
    since: Instant<Monotonic>,
}

impl Hold {
    /// Whether it should end soon; `contended`: others wait.
    pub(in crate::object) fn is_long(&self, contended: bool) -> bool {
        self.since.elapsed().as_nanos() >= if contended { SHORT } else { LONG }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = self.since.elapsed().as_nanos();
        let longest = &LONGEST[self.lock as usize];
        let mut before = longest.load(Relaxed);
        while held > before {
            match longest.cmpxchg(before, held, Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
    }
}
