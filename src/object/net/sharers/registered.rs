// SPDX-License-Identifier: GPL-2.0

//! Files that are registered with an io_uring.

use super::Wanted;
use crate::bindings;
use crate::object::{
    net::{descriptors::TableFile, socket::FileToken},
    process::pause,
    sync::hold::{Hold, Lock},
};
use core::{ffi::CStr, ptr::NonNull};
use kernel::{
    prelude::*,
    str::CStrExt,
    time::{delay::fsleep, Delta, Instant, Monotonic},
    types::NotThreadSafe,
};

/// How long is waited for a ring that is in use, in all, before it is passed over, in milliseconds.
const PATIENCE: i64 = 100;

/// How many slots are looked at in one hold of the ring's lock.
const SLOTS: u32 = 4096;

/// An io_uring.
///
/// # Invariants
///
/// A reference to the context is owned, which does not keep the ring open.
pub(super) struct Ring(NonNull<bindings::io_ring_ctx>);

impl Ring {
    /// Returns the ring that a file is, if it is one.
    pub(super) fn of(file: &TableFile<'_>) -> Option<Self> {
        // SAFETY: The table's entry keeps the file while the table is locked.
        if !unsafe { is_ring(file.as_ptr()) } {
            return None;
        }
        // SAFETY: As above. A ring's file has its context there until it is released, and releasing
        // it is what gives up the first reference to the context.
        unsafe {
            let context = NonNull::new((*file.as_ptr()).private_data.cast())?;
            let refs = bindings::io_ring_refs(context.as_ptr());
            // INVARIANT: The reference was taken.
            bindings::percpu_ref_tryget(refs).then_some(Self(context))
        }
    }

    /// The context's address, to be compared, not followed.
    pub(super) fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// Counts how often the ring has a file registered; none if somebody keeps using the ring.
    ///
    /// `EINTR` on a fatal signal.
    pub(super) fn count(&self, wanted: &Wanted) -> Result<Option<u64>> {
        let mut waited = 0_i64;
        let mut slot = 0;
        let mut found = 0_u64;
        loop {
            if let Some(guard) = self.try_lock() {
                let (counted, more) = guard.count(&mut slot, wanted.token());
                found = found.saturating_add(counted);
                drop(guard);
                if !more {
                    return Ok(Some(found));
                }
                pause()?;
            } else {
                let since = Instant::<Monotonic>::now();
                fsleep(Delta::from_micros(100));
                pause()?;
                waited = waited.saturating_add(since.elapsed().as_nanos().max(0));
                if waited >= PATIENCE * 1_000_000 {
                    return Ok(None);
                }
            }
            // Then it is not to be counted any more, but to be released.
            if wanted.references() == 0 {
                return Ok(Some(found));
            }
        }
    }

    fn try_lock(&self) -> Option<RingGuard<'_>> {
        // SAFETY: The context is kept by the type's invariant.
        let lock = unsafe { bindings::io_ring_uring_lock(self.0.as_ptr()) };
        // SAFETY: As above. It is not waited for, so that nobody waits behind a reader.
        let locked = unsafe { bindings::mutex_trylock(lock) } != 0;
        // INVARIANT: Taken.
        locked.then(|| RingGuard {
            ring: self,
            lock,
            _hold: Lock::Ring.begin(),
            _nts: NotThreadSafe,
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and this is its end. The ring's own worker frees the
        // context.
        unsafe { bindings::percpu_ref_put(bindings::io_ring_refs(self.0.as_ptr())) };
    }
}

/// A ring, locked.
///
/// # Invariants
///
/// `uring_lock` is held by this thread.
struct RingGuard<'r> {
    ring: &'r Ring,
    lock: *mut bindings::mutex,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl RingGuard<'_> {
    /// Counts how often a file is in the next slots, and returns whether there are more.
    fn count(&self, slot: &mut u32, wanted: FileToken) -> (u64, bool) {
        let mut found = 0_u64;
        // SAFETY: The table of registered files changes under `uring_lock` alone, which is held. It
        // has `nr` entries, each null or a node.
        unsafe {
            let table = bindings::io_ring_file_table(self.ring.0.as_ptr());
            let (nodes, nr) = ((*table).nodes, (*table).nr);
            let end = slot.saturating_add(SLOTS).min(nr);
            for at in *slot..end {
                if let Some(node) = NonNull::new(*nodes.add(at as usize)) {
                    let file = NonNull::new(bindings::io_slot_file(node.as_ptr()));
                    found =
                        found.saturating_add(u64::from(file.map(FileToken::of) == Some(wanted)));
                }
            }
            *slot = end;
            (found, end < nr)
        }
    }
}

impl Drop for RingGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::mutex_unlock(self.lock) };
    }
}

/// Whether a file is an io_uring. Nothing says so but its name, which no program can choose.
///
/// # Safety
///
/// The file is kept.
unsafe fn is_ring(file: *const bindings::file) -> bool {
    // SAFETY: An open file keeps its dentry, that its superblock, and that its type. Names of file
    // system types are strings; those of anonymous inodes never change.
    unsafe {
        let dentry = (*file).__bindgen_anon_1.f_path.dentry;
        let kind = (*(*(*dentry).d_sb).s_type).name;
        CStr::from_char_ptr(kind) == c"anon_inodefs"
            && CStr::from_char_ptr((*dentry).__bindgen_anon_1.d_name.name.cast()) == c"[io_uring]"
    }
}
