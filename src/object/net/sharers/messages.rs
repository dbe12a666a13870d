// SPDX-License-Identifier: GPL-2.0

//! Descriptors in messages that unix sockets have received (SCM_RIGHTS).

use crate::bindings;
use crate::object::{
    net::{descriptors::TableFile, skb::list::List, socket::FileToken},
    sync::hold::Lock,
    sync::read_once,
};
use core::ptr::NonNull;

/// The most messages, connections and descriptors together that one hold of a queue's lock covers.
const MAX_STEPS: u32 = 65536;

/// `sk_state` of a listener, of whatever family.
const TCP_LISTEN: u8 = 10;

/// A unix socket that may have messages with descriptors.
///
/// # Invariants
///
/// It is a `unix_sock`, and a reference to it is owned, which does not keep it open.
pub(super) struct UnixSocket(NonNull<bindings::sock>);

/// References in messages.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) found: u64,
    /// Messages that were not looked at.
    pub(super) missed: u32,
}

impl UnixSocket {
    /// Returns the unix socket that a file is, if it may have messages with descriptors.
    pub(super) fn of(file: &TableFile<'_>) -> Option<Self> {
        // SAFETY: The table's entry keeps the file while the table is locked, and the file keeps
        // its socket. Its `sk` goes when the last reference to the file does. By its family it is a
        // `unix_sock`.
        unsafe {
            let socket = NonNull::new(bindings::sock_from_file(file.as_ptr()))?;
            let sk = read_once!((*socket.as_ptr()).sk).cast::<bindings::sock>();
            let sk = NonNull::new(sk)?;
            let family = read_once!((*sk.as_ptr()).__sk_common.skc_family);
            if u32::from(family) != bindings::AF_UNIX || !(listens(sk) || has_descriptors(sk)) {
                return None;
            }
            bindings::sock_hold(sk.as_ptr());
            // INVARIANT: The reference was just taken.
            Some(Self(sk))
        }
    }

    /// The socket's address, to be compared, not followed.
    pub(super) fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// Counts how often a file is in messages that the socket has received, or those of its
    /// connections that nobody has accepted.
    pub(super) fn count(&self, wanted: FileToken) -> Messages {
        let mut messages = Messages::default();
        let mut steps = MAX_STEPS;
        // SAFETY: The socket is kept by the type's invariant.
        let queue = unsafe { &raw mut (*self.0.as_ptr()).sk_receive_queue };
        // SAFETY: As above. The queue's own lock guards it, which is not taken in interrupts.
        unsafe { bindings::spin_lock(&raw mut (*queue).lock) };
        let hold = Lock::Queue.begin();
        // SAFETY: The queue's lock is held. A listener's receive queue has connections, whose
        // `sk_buff` keeps them; who ceases to listen has thrown them away, and a socket that
        // listened never receives.
        unsafe {
            if listens(self.0) {
                for connection in List::new(queue) {
                    match NonNull::new((*connection.as_ptr()).sk.cast()) {
                        Some(child) => count_of_child(child, wanted, &mut messages, &mut steps),
                        None => messages.missed = messages.missed.saturating_add(1),
                    }
                }
            } else {
                count_in(queue, wanted, &mut messages, &mut steps);
            }
        }
        // SAFETY: The lock is held.
        unsafe { bindings::spin_unlock(&raw mut (*queue).lock) };
        drop(hold);
        messages
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // SAFETY: The reference is owned, and this is its end. A socket that was released has no
        // messages any more, so that no file is released here.
        unsafe { bindings::sock_put(self.0.as_ptr()) };
    }
}

/// # Safety
///
/// The socket is kept.
unsafe fn listens(sk: NonNull<bindings::sock>) -> bool {
    // SAFETY: By the caller.
    unsafe { read_once!((*sk.as_ptr()).__sk_common.skc_state) == TCP_LISTEN }
}

/// # Safety
///
/// The socket is a `unix_sock` that is kept.
unsafe fn has_descriptors(sk: NonNull<bindings::sock>) -> bool {
    let sk = sk.as_ptr().cast::<bindings::unix_sock>();
    // SAFETY: By the caller. A `unix_sock` begins with its `sock`.
    unsafe { read_once!((*sk).scm_stat.nr_fds.counter) != 0 }
}

/// # Safety
///
/// The lock of the listener's queue, in which the connection is, is held.
unsafe fn count_of_child(
    child: NonNull<bindings::sock>,
    wanted: FileToken,
    messages: &mut Messages,
    steps: &mut u32,
) {
    if *steps == 0 {
        messages.missed = messages.missed.saturating_add(1);
        return;
    }
    *steps = steps.saturating_sub(1);
    // SAFETY: The connection is kept by its sk_buff in the listener's queue, which is locked. The
    // listener's lock comes before the connection's, as in unix_collect_skb().
    unsafe {
        if !has_descriptors(child) {
            return;
        }
        let queue = &raw mut (*child.as_ptr()).sk_receive_queue;
        bindings::spin_lock(&raw mut (*queue).lock);
        count_in(queue, wanted, messages, steps);
        bindings::spin_unlock(&raw mut (*queue).lock);
    }
}

/// # Safety
///
/// The queue is a unix socket's receive queue, with messages, and its lock is held.
unsafe fn count_in(
    queue: *const bindings::sk_buff_head,
    wanted: FileToken,
    messages: &mut Messages,
    steps: &mut u32,
) {
    let mut seen = 0_u32;
    // SAFETY: The lock is held, by the caller. A stream's reader takes the descriptors away without
    // it, but takes it before the list of them is freed.
    unsafe {
        for message in List::new(queue) {
            if *steps == 0 {
                let behind = read_once!((*queue).qlen).saturating_sub(seen);
                messages.missed = messages.missed.saturating_add(behind);
                return;
            }
            seen = seen.saturating_add(1);
            *steps = steps.saturating_sub(1);
            let Some(list) = NonNull::new(bindings::unix_skb_fp(message.as_ptr())) else {
                continue;
            };
            let count = usize::try_from((*list.as_ptr()).count).unwrap_or(0);
            *steps = steps.saturating_sub(count as u32);
            for at in 0..count.min((*list.as_ptr()).fp.len()) {
                let file = (&raw const (*list.as_ptr()).fp)
                    .cast::<*mut bindings::file>()
                    .add(at);
                let file = NonNull::new(file.read());
                messages.found = messages
                    .found
                    .saturating_add(u64::from(file.map(FileToken::of) == Some(wanted)));
            }
        }
    }
}
