// SPDX-License-Identifier: GPL-2.0

//! UDP sockets.
//!
//! What a UDP socket received is in two queues: a reader moves all of the receive queue to its own
//! at once, under the locks of both (first_packet_length()). Only with both held is each datagram
//! in exactly one of them.
//!
//! C header: [`include/linux/udp.h`](srctree/include/linux/udp.h)

use crate::bindings;
use crate::object::{
    net::{
        skb::{ControlKind, Of, Queue, QueueGuard},
        socket::{Kind, SockGuard, Socket},
        state::{Own, Queued, State},
    },
    sync::hold::{Hold, Lock},
};
use core::ptr::NonNull;

/// Both receive queues of a UDP socket, locked.
///
/// # Invariants
///
/// The lock of the receive queue is held by this thread, and that of the reader queue by `reader`.
pub(crate) struct UdpQueues<'f> {
    receive: NonNull<bindings::sk_buff_head>,
    _hold: Hold,
    // Released after the other, which is taken inside it.
    reader: QueueGuard<'f>,
}

impl<'f> Socket<'f> {
    /// Locks both receive queues, if it is a UDP socket.
    pub(crate) fn udp_queues(&self) -> Option<UdpQueues<'f>> {
        if self.kind() != Kind::Udp {
            return None;
        }
        let udp = self.as_ptr().cast::<bindings::udp_sock>();
        let receive = self.receive_queue();
        // SAFETY: The socket is valid for `'f`, and a udp_sock by its kind. Both queues are part of
        // it, and guarded by their own locks, of which the reader queue's is the outer one
        // (first_packet_length()).
        let reader = unsafe {
            let queue = NonNull::new_unchecked(&raw mut (*udp).reader_queue);
            let reader = QueueGuard::lock(queue, ControlKind::None);
            bindings::spin_lock(&raw mut (*receive.as_ptr()).lock);
            reader
        };
        // INVARIANT: Both are taken.
        Some(UdpQueues {
            receive,
            _hold: Lock::Queue.begin(),
            reader,
        })
    }
}

impl UdpQueues<'_> {
    /// Returns what no reader has taken over.
    pub(crate) fn receive(&self) -> Queue<'_> {
        // SAFETY: The queue's lock is held by the type's invariant, for the borrow of `self`.
        unsafe { Queue::new(Of::List(self.receive.as_ptr()), ControlKind::None) }
    }

    /// Returns what a reader has taken over, which is read first.
    pub(crate) fn reader(&self) -> Queue<'_> {
        self.reader.queue()
    }
}

impl Drop for UdpQueues<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant, and the socket is kept for `'f`.
        unsafe { bindings::spin_unlock(&raw mut (*self.receive.as_ptr()).lock) };
    }
}

/// A UDP socket whose spinlock is held, and that no process owns, with its receive queues locked.
pub(crate) struct UdpGuard<'g> {
    guard: &'g SockGuard<'g>,
    queues: UdpQueues<'g>,
}

impl SockGuard<'_> {
    /// Returns it as a UDP socket, if it is one.
    pub(crate) fn udp(&self) -> Option<UdpGuard<'_>> {
        let queues = self.socket().udp_queues()?;
        Some(UdpGuard {
            guard: self,
            queues,
        })
    }
}

impl UdpGuard<'_> {
    /// Reads the socket.
    pub(super) fn read(&self, to: &mut State) {
        self.guard.socket().read_common(&mut to.common);
        let (receive, reader) = (
            self.queues.receive().totals(),
            self.queues.reader().totals(),
        );
        let first = if reader.packets > 0 {
            reader.first
        } else {
            receive.first
        };
        to.queued = Queued {
            rx_bytes: receive.bytes.wrapping_add(reader.bytes),
            rx_packets: receive.packets.saturating_add(reader.packets),
            missed: receive.missed.saturating_add(reader.missed),
            // A sockmap has messages of its own.
            inq: to.common.psock.map_or(first.into(), |_| -1),
            outq: to.common.wmem.into(),
            ..Queued::default()
        };
        to.own = match self.guard.inet() {
            Some(inet) => Own::Inet(inet.addresses()),
            None => Own::Other,
        };
    }
}
