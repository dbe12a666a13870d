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

pub(crate) use crate::bindings::{ravel_frag as Frag, ravel_skb as SkbState};

impl Frag {
    /// The id of the page, or of the sk_buff.
    pub(crate) fn id(&self) -> Id {
        Id::of(ptr::without_provenance::<u8>(self.at))
    }
}

/// A socket's queues.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueName {
    /// Received, and not read (`sk_receive_queue`).
    Receive,
    /// UDP: taken over by a reader in one go, and not yet read (`udp_sock.reader_queue`).
    Reader,
    /// TCP: received, and something before it is missing (`out_of_order_queue`).
    OutOfOrder,
    /// Written, and not yet sent (`sk_write_queue`).
    Write,
    /// TCP: sent, and not acknowledged (`tcp_rtx_queue`).
    Retransmit,
    /// TCP and SCTP: came while a process owned the socket (`sk_backlog`).
    Backlog,
    /// Errors and time stamps of what was sent (`sk_error_queue`).
    Error,
}

/// A queue of which the lock that guards it is held.
///
/// # Invariants
///
/// The queue, and what is in it, does not change for `'g`. `cb` says whose the sk_buffs' control blocks are.
pub(crate) struct Queue<'g> {
    of: Of,
    cb: u32,
    _guard: PhantomData<&'g ()>,
}

#[derive(Clone, Copy)]
pub(super) enum Of {
    List(*mut bindings::sk_buff_head),
    Retransmit(*mut bindings::sock),
    OutOfOrder(*mut bindings::sock),
    Backlog(*mut bindings::sock),
}

impl<'g> Queue<'g> {
    /// # Safety
    ///
    /// The lock that guards the queue is held for `'g`. `cb`: one of `RAVEL_CB_*`, by what uses the queue. The
    /// trees are those of TCP sockets.
    pub(super) unsafe fn new(of: Of, cb: u32) -> Self {
        // INVARIANT: By the caller.
        Self {
            of,
            cb,
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
            _ => None,
        }
    }

    fn after(&self, last: *mut bindings::sk_buff) -> *mut bindings::sk_buff {
        // SAFETY: By the type's invariant the queue stands still; `last` is null or in it.
        unsafe {
            match self.of {
                Of::List(head) => bindings::ravel_queue_next(head, last),
                Of::Retransmit(sk) => bindings::ravel_rtx_next(sk, last),
                Of::OutOfOrder(sk) => bindings::ravel_ofo_next(sk, last),
                Of::Backlog(sk) => bindings::ravel_backlog_next(sk, last),
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
            cb: self.queue.cb,
            _queue: PhantomData,
        })
    }
}

/// An sk_buff in a queue.
///
/// # Invariants
///
/// It stays in its queue for `'q`, and `cb` says whose its control block is.
pub(crate) struct SkBuff<'q> {
    skb: NonNull<bindings::sk_buff>,
    cb: u32,
    _queue: PhantomData<&'q ()>,
}

impl SkBuff<'_> {
    /// Its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(self.skb.as_ptr())
    }

    /// What it says of itself.
    pub(crate) fn state(&self) -> SkbState {
        let mut state = SkbState::default();
        // SAFETY: The sk_buff and `cb` are by the type's invariant.
        unsafe { bindings::ravel_skb_snapshot(self.skb.as_ptr(), self.cb as u8, &mut state) };
        state
    }

    /// Fills in where its bytes in pages are, and returns how many of the entries.
    pub(crate) fn frags(&self, frags: &mut [Frag]) -> usize {
        // SAFETY: The sk_buff is valid by the type's invariant; there is room for as many.
        unsafe {
            let max = frags.len() as u32;
            bindings::ravel_skb_frags(self.skb.as_ptr(), frags.as_mut_ptr(), max) as usize
        }
    }

    /// Fills in the sk_buffs that hang on it. Returns how many, and how many more there are.
    pub(crate) fn parts(&self, parts: &mut [Frag]) -> (usize, u32) {
        let mut missed = 0;
        // SAFETY: As in `frags()`. An sk_buff's list goes with it, and changes under its owner's lock alone.
        let told = unsafe {
            let max = parts.len() as u32;
            bindings::ravel_skb_parts(self.skb.as_ptr(), parts.as_mut_ptr(), max, &mut missed)
        };
        (told as usize, missed)
    }

    /// Copies its bytes from a place on that is told from the buffer's head, and returns how many.
    pub(crate) fn bytes(&self, from: u16, bytes: &mut [u8]) -> usize {
        let skb = self.skb.as_ptr();
        // SAFETY: The sk_buff is valid by the type's invariant, `from` is within its buffer or nothing is
        // copied, and there is room for as many bytes.
        unsafe {
            let max = bytes.len() as u32;
            bindings::ravel_skb_bytes(skb, from.into(), bytes.as_mut_ptr(), max) as usize
        }
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

/// A queue that a spinlock guards which nobody sleeps with, with that held.
///
/// # Invariants
///
/// The lock is held by this thread, with bottom halves or interrupts off. The holder must not sleep.
pub(crate) struct QueueGuard<'f> {
    held: Held,
    cb: u32,
    _hold: Hold,
    _socket: PhantomData<&'f ()>,
    _nts: NotThreadSafe,
}

/// Which lock, and of what.
enum Held {
    /// The queue's own, with bottom halves off.
    Queue(NonNull<bindings::sk_buff_head>),
    /// The queue's own, with interrupts off, and how they were before.
    Interrupts(NonNull<bindings::sk_buff_head>, usize),
    /// The socket's spinlock, whoever owns the socket.
    Backlog(NonNull<bindings::sock>),
}

impl QueueGuard<'_> {
    fn new(held: Held, cb: u32, lock: Lock) -> Self {
        // INVARIANT: By the callers, which have just taken it.
        Self {
            held,
            cb,
            _hold: lock.begin(),
            _socket: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// # Safety
    ///
    /// `head` is valid for the guard's life, its own lock guards it, and no interrupt takes that. `cb` is by
    /// what uses the queue.
    pub(super) unsafe fn lock(head: NonNull<bindings::sk_buff_head>, cb: u32) -> Self {
        // SAFETY: By the caller.
        unsafe { bindings::ravel_queue_lock(head.as_ptr()) };
        Self::new(Held::Queue(head), cb, Lock::Queue)
    }

    /// # Safety
    ///
    /// `head` is a socket's error queue, and valid for the guard's life.
    pub(super) unsafe fn lock_errors(head: NonNull<bindings::sk_buff_head>) -> Self {
        // SAFETY: By the caller.
        let flags = unsafe { bindings::ravel_queue_lock_irq(head.as_ptr()) };
        Self::new(
            Held::Interrupts(head, flags),
            bindings::RAVEL_CB_ERROR,
            Lock::Queue,
        )
    }

    /// # Safety
    ///
    /// The socket is valid for the guard's life. `cb` is by its protocol.
    pub(super) unsafe fn lock_backlog(sk: NonNull<bindings::sock>, cb: u32) -> Self {
        // SAFETY: By the caller.
        unsafe { bindings::ravel_backlog_lock(sk.as_ptr()) };
        Self::new(Held::Backlog(sk), cb, Lock::Socket)
    }

    /// The queue.
    pub(crate) fn queue(&self) -> Queue<'_> {
        let of = match self.held {
            Held::Queue(head) | Held::Interrupts(head, _) => Of::List(head.as_ptr()),
            Held::Backlog(sk) => Of::Backlog(sk.as_ptr()),
        };
        // SAFETY: The lock is held while `self` is borrowed, and `cb` is by who made the guard.
        unsafe { Queue::new(of, self.cb) }
    }
}

impl Queue<'_> {
    /// Its sums; none where the kernel keeps no count.
    pub(crate) fn totals(&self) -> QueueTotals {
        let mut totals = QueueTotals::default();
        if let Of::List(head) = self.of {
            // SAFETY: The lock is held by the type's invariant.
            totals.bytes = unsafe {
                bindings::ravel_queue_bytes(
                    head,
                    &mut totals.packets,
                    &mut totals.first,
                    &mut totals.missed,
                )
            };
        }
        totals
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe {
            match self.held {
                Held::Queue(head) => bindings::ravel_queue_unlock(head.as_ptr()),
                Held::Interrupts(head, flags) => {
                    bindings::ravel_queue_unlock_irq(head.as_ptr(), flags);
                }
                Held::Backlog(sk) => bindings::ravel_backlog_unlock(sk.as_ptr()),
            }
        }
    }
}
