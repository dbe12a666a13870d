// SPDX-License-Identifier: GPL-2.0

//! Queues of sk_buffs, and the sk_buffs in them.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::{
    hold::{Hold, Lock},
    id::Id,
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::types::NotThreadSafe;

pub(crate) use crate::bindings::ravel_skb as SkbState;

/// A socket's queues.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueName {
    /// Received, and not read (`sk_receive_queue`).
    Receive,
    /// UDP: taken over by a reader in one go, and not yet read (`udp_sock.reader_queue`).
    Reader,
    /// TCP: written, and not yet sent (`sk_write_queue`).
    Write,
    /// TCP: sent, and not acknowledged (`tcp_rtx_queue`).
    Retransmit,
}

/// A queue of which the lock that guards it is held.
///
/// # Invariants
///
/// The queue, and what is in it, does not change for `'g`.
pub(crate) struct Queue<'g> {
    of: Of,
    tcp: bool,
    _guard: PhantomData<&'g ()>,
}

enum Of {
    List(*mut bindings::sk_buff_head),
    Retransmit(*mut bindings::sock),
}

impl<'g> Queue<'g> {
    /// # Safety
    ///
    /// The lock that guards `head` is held for `'g`. `tcp`: its sk_buffs are a TCP socket's.
    pub(super) unsafe fn list(head: *mut bindings::sk_buff_head, tcp: bool) -> Self {
        // INVARIANT: By the caller.
        Self {
            of: Of::List(head),
            tcp,
            _guard: PhantomData,
        }
    }

    /// # Safety
    ///
    /// `sk` is a TCP socket, and locked for `'g`.
    pub(super) unsafe fn retransmit(sk: *mut bindings::sock) -> Self {
        // INVARIANT: By the caller.
        Self {
            of: Of::Retransmit(sk),
            tcp: true,
            _guard: PhantomData,
        }
    }

    /// The sk_buffs from first to last.
    pub(crate) fn skbs(&self) -> Skbs<'_> {
        Skbs {
            queue: self,
            last: ptr::null_mut(),
            ended: false,
        }
    }

    /// How many sk_buffs are in it, where the kernel keeps count.
    pub(crate) fn len(&self) -> Option<u32> {
        match self.of {
            // SAFETY: By the type's invariant.
            Of::List(head) => Some(unsafe { bindings::ravel_queue_len(head) }),
            Of::Retransmit(_) => None,
        }
    }

    fn after(&self, last: *mut bindings::sk_buff) -> *mut bindings::sk_buff {
        // SAFETY: By the type's invariant the queue stands still; `last` is null or in it.
        unsafe {
            match self.of {
                Of::List(head) => bindings::ravel_queue_next(head, last),
                Of::Retransmit(sk) => bindings::ravel_rtx_next(sk, last),
            }
        }
    }
}

/// A walk over a queue.
pub(crate) struct Skbs<'q> {
    queue: &'q Queue<'q>,
    last: *mut bindings::sk_buff,
    ended: bool,
}

impl<'q> Iterator for Skbs<'q> {
    type Item = SkBuff<'q>;

    fn next(&mut self) -> Option<SkBuff<'q>> {
        if self.ended {
            return None;
        }
        self.last = self.queue.after(self.last);
        self.ended = self.last.is_null();
        // INVARIANT: It is in a queue that stands still.
        NonNull::new(self.last).map(|skb| SkBuff {
            skb,
            tcp: self.queue.tcp,
            _queue: PhantomData,
        })
    }
}

/// An sk_buff in a queue.
///
/// # Invariants
///
/// It stays in its queue for `'q`.
pub(crate) struct SkBuff<'q> {
    skb: NonNull<bindings::sk_buff>,
    tcp: bool,
    _queue: PhantomData<&'q ()>,
}

impl SkBuff<'_> {
    /// Its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(self.skb.as_ptr())
    }

    /// All there is to say of it.
    pub(crate) fn state(&self) -> SkbState {
        let mut state = SkbState::default();
        // SAFETY: The sk_buff is valid by the type's invariant, and a TCP queue's where `tcp` says so.
        unsafe { bindings::ravel_skb_snapshot(self.skb.as_ptr(), self.tcp, &mut state) };
        state
    }
}

/// Bytes and packets of a queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct QueueTotals {
    /// Bytes in the first `RAVEL_QUEUE_WALK` packets.
    pub(crate) bytes: u32,
    /// Packets.
    pub(crate) packets: u32,
    /// Bytes of the first packet.
    pub(crate) first: u32,
    /// Packets whose bytes were not counted.
    pub(crate) missed: u32,
}

/// A queue that its own spinlock guards, with that held.
///
/// # Invariants
///
/// `queue.lock` is held by this thread, with bottom halves off. The holder must not sleep.
pub(crate) struct QueueGuard<'f> {
    head: NonNull<bindings::sk_buff_head>,
    _hold: Hold,
    _socket: PhantomData<&'f ()>,
    _nts: NotThreadSafe,
}

impl QueueGuard<'_> {
    /// # Safety
    ///
    /// `head` is valid for the guard's life, and its own lock guards it.
    pub(super) unsafe fn lock(head: NonNull<bindings::sk_buff_head>) -> Self {
        // SAFETY: By the caller.
        unsafe { bindings::ravel_queue_lock(head.as_ptr()) };
        // INVARIANT: Taken.
        Self {
            head,
            _hold: Lock::Queue.begin(),
            _socket: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// The queue.
    pub(crate) fn queue(&self) -> Queue<'_> {
        // SAFETY: The queue's lock is held while `self` is borrowed.
        unsafe { Queue::list(self.head.as_ptr(), false) }
    }

    /// Its sums.
    pub(crate) fn totals(&self) -> QueueTotals {
        let mut totals = QueueTotals::default();
        // SAFETY: The lock is held by the type's invariant.
        totals.bytes = unsafe {
            bindings::ravel_queue_bytes(
                self.head.as_ptr(),
                &mut totals.packets,
                &mut totals.first,
                &mut totals.missed,
            )
        };
        totals
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::ravel_queue_unlock(self.head.as_ptr()) };
    }
}
