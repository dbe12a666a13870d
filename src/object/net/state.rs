// SPDX-License-Identifier: GPL-2.0

//! What a socket is like at one moment, as plain values.
//!
//! Each state is read in one hold of the lock that guards the socket:
//!
//! - unix: its state lock, and the receive queue's ([`unix`](super::unix));
//! - all others: the spinlock of a socket that no process owns ([`SockGuard`]), and the locks of
//!   queues that have their own.
//!
//! The other end of a TCP connection is a socket of its own, and read afterwards.

use crate::bindings;
use crate::object::{
    net::{
        af_packet::Packet,
        inet::Addresses,
        netlink::Netlink,
        skb::{QueueName, QueueTotals},
        socket::{Common, Ident, Kind, SockGuard, Socket},
        tcp::Tcp,
        unix::Unix,
        vsock::Vsock,
    },
    sync::id::Id,
};
use kernel::prelude::*;

/// What waits in a socket's queues.
#[derive(Clone, Copy)]
pub(crate) struct Queued {
    /// Bytes and sk_buffs received and not read; of a listener, connections.
    pub(crate) rx_bytes: u32,
    pub(crate) rx_packets: u32,
    /// Whether close() discards something that was not read, and the peer learns of it.
    pub(crate) unread: bool,
    /// TCP: bytes and packets not acknowledged.
    pub(crate) tx_bytes: u32,
    pub(crate) tx_packets: u32,
    /// What SIOCINQ and SIOCOUTQ return; -1 where they fail or ravel does not know.
    pub(crate) inq: i64,
    pub(crate) outq: i64,
    /// sk_buffs and frames that were not counted.
    pub(crate) missed: u32,
}

impl Default for Queued {
    fn default() -> Self {
        Self {
            rx_bytes: 0,
            rx_packets: 0,
            unread: false,
            tx_bytes: 0,
            tx_packets: 0,
            inq: -1,
            outq: -1,
            missed: 0,
        }
    }
}

impl Queued {
    /// Takes over what a receive queue holds.
    pub(super) fn receive(&mut self, totals: &QueueTotals) {
        self.rx_bytes = totals.bytes;
        self.rx_packets = totals.packets;
        self.missed = totals.missed;
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Default)]
pub(crate) struct Peer {
    /// Its id.
    pub(crate) id: Id,
    /// The inode of its file; 0 where no process has it open.
    pub(crate) inode: u64,
    /// Bytes that it received and has not read.
    pub(crate) rx_bytes: u32,
    /// sk_buffs in its receive queue.
    pub(crate) rx_packets: u32,
    /// `sk_state`.
    pub(crate) state: u8,
    /// `sk_shutdown`.
    pub(crate) shutdown: u8,
}

/// What only sockets of one kind have.
#[derive(Default)]
pub(crate) enum Own {
    Tcp(Tcp),
    /// UDP and other inet sockets.
    Inet(Addresses),
    Unix(Unix),
    Netlink(Netlink),
    Packet(Packet),
    Vsock(Vsock),
    /// A family that ravel does not know.
    #[default]
    Other,
}

/// A socket at one moment.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) common: Common,
    pub(crate) queued: Queued,
    /// The other end; none where there is none on this machine.
    pub(crate) peer: Option<Peer>,
    pub(crate) own: Own,
}

impl Socket<'_> {
    /// Reads the socket into a place. `EBUSY` when its user did not release it, `EINTR` on a fatal
    /// signal; nothing may be taken from the place then.
    pub(crate) fn read(&self, ident: &Ident, to: &mut Option<State>) -> Result {
        let kind = ident.kind();
        let state = to.get_or_insert_default();
        (state.queued, state.peer) = (Queued::default(), None);
        if let Some(unix) = self.lock_unix() {
            unix.read(state);
            return Ok(());
        }
        let guard = self.lock()?;
        match kind {
            Kind::Tcp => guard.tcp().map(|tcp| tcp.read(state)),
            Kind::Udp => guard.udp().map(|udp| udp.read(state)),
            Kind::Netlink => guard.netlink().map(|netlink| netlink.read(state)),
            Kind::Packet => guard.packet().map(|packet| packet.read(state)),
            Kind::Vsock => guard.vsock().map(|vsock| vsock.read(state)),
            Kind::Mptcp | Kind::Inet => guard.inet().map(|inet| inet.read(state)),
            Kind::Unix | Kind::Other => None,
        }
        .unwrap_or_else(|| guard.read_other(state));
        drop(guard);
        match kind {
            Kind::Tcp => state.peer = self.tcp_peer(),
            Kind::Mptcp if state.common.listens() => self.read_subflow(state)?,
            _ => {}
        }
        Ok(())
    }
}

impl SockGuard<'_> {
    /// Returns the totals of the receive queue, under whichever lock guards it.
    pub(super) fn receive_totals(&self) -> QueueTotals {
        match self.queue(QueueName::Receive) {
            Some(queue) => queue.totals(),
            None => self
                .socket()
                .queue(QueueName::Receive)
                .map_or(QueueTotals::default(), |guard| guard.queue().totals()),
        }
    }

    /// Reads a socket of which nothing more is known.
    fn read_other(&self, to: &mut State) {
        self.socket().read_common(&mut to.common);
        to.queued.receive(&self.receive_totals());
        to.own = Own::Other;
    }
}

/// Returns the number of milliseconds of a time in jiffies; 0 for one in the past.
pub(super) fn ms(jiffies: usize) -> i64 {
    if (jiffies as isize) < 0 {
        return 0;
    }
    // SAFETY: It computes.
    unsafe { bindings::jiffies64_to_msecs(jiffies as u64) as i64 }
}

/// Returns the current time in jiffies.
pub(super) fn jiffies() -> usize {
    // SAFETY: It is always valid, and changes under our eyes.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}
