// SPDX-License-Identifier: GPL-2.0

//! How long locks are held: what ravel costs those that it looks at, told by ravel itself.

use crate::bindings;
use kernel::{
    sync::atomic::{Atomic, Relaxed},
    time::{Instant, Monotonic},
};

/// The locks that ravel takes and that others wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    /// A process' `mmap_lock`, for reading.
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
}

impl Lock {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Mmap,
        Self::AnonVma,
        Self::FileMap,
        Self::Socket,
        Self::Queue,
        Self::Unix,
        Self::Wait,
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
    pub(super) fn begin(self) -> Hold {
        Hold {
            lock: self,
            since: Instant::now(),
        }
    }
}

static LONGEST: [Atomic<i64>; Lock::ALL.len()] = [const { Atomic::new(0) }; Lock::ALL.len()];

/// After how many nanoseconds a hold that need not go on should end.
const LONG: i64 = 2_000_000;

/// A hold under way. A guard has it as a field: fields are dropped after the guard's `drop()` has unlocked.
pub(crate) struct Hold {
    lock: Lock,
    since: Instant<Monotonic>,
}

impl Hold {
    /// Whether it should end soon.
    pub(super) fn is_long(&self) -> bool {
        self.since.elapsed().as_nanos() >= LONG
    }

    /// How long who has held it is to leave it alone, where others had to wait meanwhile.
    pub(super) fn rest(&self) -> Rest {
        let held = self.since.elapsed().as_nanos();
        Rest((held.saturating_mul(REST)).clamp(0, LONGEST_REST) as u64)
    }
}

/// So many times as long as it made others wait, a walk stays away from the lock: at most one call in a hundred finds it
/// held, then, however often reports are asked for.
const REST: i64 = 128;

/// In nanoseconds, so that a walk comes to its end where somebody always waits.
const LONGEST_REST: i64 = 20_000_000;

/// A time to leave a lock alone.
#[must_use]
pub(super) struct Rest(u64);

impl Rest {
    /// Nobody waited.
    pub(super) const NONE: Self = Self(0);

    /// Sleeps for that time, or until a fatal signal.
    pub(super) fn take(self) {
        if self.0 > 0 {
            // SAFETY: A process is here, which may sleep: it has released the lock that this is about, and holds no
            // spinlock.
            unsafe { bindings::ravel_rest(self.0) };
        }
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
