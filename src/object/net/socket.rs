// SPDX-License-Identifier: GPL-2.0

//! Sockets, and the lock that most families guard them with.
//!
//! A socket is reached through its file, a reference to which keeps both. If its last user closes
//! it meanwhile, the connection ends when ravel releases that reference, at the latest after
//! [`PATIENCE`], and by a worker ([`release`](super::release)).
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use crate::object::{
    process::interrupted,
    sync::hold::{Hold, Lock},
    sync::id::Id,
};
use crate::{bindings, object::sync::read_once};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    prelude::*,
    sync::rcu,
    time::{delay::fsleep, Delta, Instant, Monotonic},
    types::NotThreadSafe,
};

pub(crate) use crate::object::net::accept::Child;
pub(crate) use crate::object::net::file::{FileToken, Files, OpenFile};

/// How long a socket may stay owned by its user before ravel passes it over, in milliseconds.
const PATIENCE: i64 = 100;

/// The directions of `sk_shutdown` (`SHUTDOWN_MASK`).
const SHUTDOWN_MASK: u8 = 3;

/// Jiffies in a second.
const HZ: u64 = bindings::CONFIG_HZ as u64;

/// What a socket is, which decides how it is read, and which lock guards it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A `tcp_sock`, guarded by the socket's spinlock without an owner.
    Tcp,
    /// An `mptcp_sock`, guarded likewise. Its subflows are TCP sockets that no file leads to.
    Mptcp,
    /// A `udp_sock`.
    Udp,
    /// Another `inet_sock`: raw, ping, SCTP.
    Inet,
    /// A `unix_sock`, guarded by its state lock.
    Unix,
    /// A `netlink_sock`.
    Netlink,
    /// A `packet_sock`.
    Packet,
    /// A `vsock_sock`.
    Vsock,
    /// A socket of which ravel knows only what all sockets have.
    Other,
}

/// What never changes in a socket, except the family of an IPv6 socket that IPV6_ADDRFORM makes one
/// of IPv4.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ident {
    /// The inode number of its network namespace.
    pub(crate) netns: u32,
    /// `AF_*`.
    pub(crate) family: u16,
    /// `SOCK_*`.
    pub(crate) type_: u16,
    /// The protocol of its family.
    pub(crate) protocol: u16,
}

impl Ident {
    /// Returns whether it is an `inet_sock`.
    pub(super) fn is_inet(&self) -> bool {
        matches!(self.family.into(), bindings::AF_INET | bindings::AF_INET6)
    }

    /// Returns the kind that follows from it, as `sk_is_tcp()` and the like do.
    pub(crate) fn kind(&self) -> Kind {
        let (type_, protocol) = (self.type_.into(), self.protocol.into());
        match self.family.into() {
            bindings::AF_INET | bindings::AF_INET6 => match (type_, protocol) {
                (bindings::sock_type_SOCK_STREAM, bindings::IPPROTO_TCP) => Kind::Tcp,
                (bindings::sock_type_SOCK_STREAM, bindings::IPPROTO_MPTCP) => Kind::Mptcp,
                (bindings::sock_type_SOCK_DGRAM, bindings::IPPROTO_UDP) => Kind::Udp,
                _ => Kind::Inet,
            },
            bindings::AF_UNIX => Kind::Unix,
            bindings::AF_NETLINK => Kind::Netlink,
            bindings::AF_PACKET => Kind::Packet,
            bindings::AF_VSOCK => Kind::Vsock,
            _ => Kind::Other,
        }
    }
}

/// Flags of a socket (`sk_flags`).
#[derive(Clone, Copy, Default)]
pub(crate) struct SockFlags(usize);

impl SockFlags {
    /// No process has it open any more.
    pub(crate) const DEAD: u32 = bindings::sock_flags_SOCK_DEAD;
    /// The peer's FIN was received.
    pub(crate) const DONE: u32 = bindings::sock_flags_SOCK_DONE;
    /// SO_OOBINLINE.
    pub(crate) const URGINLINE: u32 = bindings::sock_flags_SOCK_URGINLINE;
    /// SO_LINGER.
    pub(crate) const LINGER: u32 = bindings::sock_flags_SOCK_LINGER;
    /// SO_KEEPALIVE.
    pub(crate) const KEEPALIVE: u32 = bindings::sock_flags_SOCK_KEEPOPEN;

    /// Returns whether a flag is set.
    pub(crate) fn has(self, flag: u32) -> bool {
        self.0 & (1 << flag) != 0
    }
}

/// What all sockets have. It was read under the lock that guards the socket.
#[derive(Clone, Copy, Default)]
pub(crate) struct Common {
    /// `socket->state`.
    pub(crate) socket_state: u32,
    /// `sk_state`, by TCP's names.
    pub(crate) state: u8,
    /// `sk_shutdown`: bit 0 for receiving, bit 1 for sending.
    pub(crate) shutdown: u8,
    /// `sk_flags`.
    pub(crate) flags: SockFlags,
    /// SO_LINGER's seconds.
    pub(crate) linger: u64,
    /// `sk_err`, positive.
    pub(crate) err: u32,
    /// `sk_err_soft`, positive.
    pub(crate) soft_err: u32,
    /// Bytes of memory of what it received and nobody has freed, and their limit.
    pub(crate) rmem: u32,
    pub(crate) rcvbuf: u32,
    /// Bytes of memory of what it sent and nobody has freed, and their limit.
    pub(crate) wmem: u32,
    pub(crate) sndbuf: u32,
    /// Packets that it dropped; of a TCP listener: connections.
    pub(crate) drops: u32,
    /// The limit of a listener's accept queue; else 0.
    pub(crate) backlog: u32,
    /// Bytes in the ingress queue of its sockmap; none where it is in no sockmap.
    pub(crate) psock: Option<Psock>,
}

impl Common {
    /// Returns whether it accepts connections.
    pub(crate) fn listens(&self) -> bool {
        u32::from(self.state) == bindings::BPF_TCP_LISTEN
    }
}

/// A socket's membership in a sockmap.
#[derive(Clone, Copy)]
pub(crate) struct Psock {
    /// Bytes that were redirected to it, and not read.
    pub(crate) bytes: u32,
    /// Whether a program decides about all that it receives.
    pub(crate) has_verdict: bool,
}

/// A socket.
///
/// # Invariants
///
/// `sk` is valid for `'f`: an open file or a reference keeps it. So is `socket`, whose `sk` it is.
#[derive(Clone, Copy)]
pub(crate) struct Socket<'f> {
    sk: NonNull<bindings::sock>,
    /// None where no file has it: a connection that was not accepted, or a subflow.
    socket: Option<NonNull<bindings::socket>>,
    _file: PhantomData<&'f OpenFile>,
}

impl<'f> Socket<'f> {
    /// # Safety
    ///
    /// The socket is valid for `'f`, and so is the `struct socket`, which has it.
    pub(super) unsafe fn new(
        sk: NonNull<bindings::sock>,
        socket: Option<NonNull<bindings::socket>>,
    ) -> Self {
        // INVARIANT: By this function's requirements.
        Self {
            sk,
            socket,
            _file: PhantomData,
        }
    }

    /// Returns its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(self.sk.as_ptr())
    }

    pub(in crate::object) fn as_ptr(&self) -> *mut bindings::sock {
        self.sk.as_ptr()
    }

    /// Returns its address, to take a reference.
    pub(in crate::object) fn as_non_null(&self) -> NonNull<bindings::sock> {
        self.sk
    }

    /// Returns what a file has of it, if any has it.
    pub(in crate::object) fn socket(&self) -> Option<NonNull<bindings::socket>> {
        self.socket
    }

    /// Reads what needs no lock.
    pub(crate) fn ident(&self) -> Ident {
        let sk = self.sk.as_ptr();
        // SAFETY: The socket is valid by the type's invariant, and keeps its network namespace.
        unsafe {
            Ident {
                netns: bindings::net_ns_inum((*sk).__sk_common.skc_net.net),
                family: read_once!((*sk).__sk_common.skc_family),
                type_: read_once!((*sk).sk_type),
                protocol: read_once!((*sk).sk_protocol),
            }
        }
    }

    /// Returns its kind.
    pub(crate) fn kind(&self) -> Kind {
        self.ident().kind()
    }

    /// Reads `sk_state`.
    pub(super) fn state(&self) -> u32 {
        // SAFETY: The socket is valid by the type's invariant.
        unsafe { read_once!((*self.sk.as_ptr()).__sk_common.skc_state) }.into()
    }

    /// Reads what all sockets have into a place. Called under the lock that guards the socket, so
    /// that it belongs together.
    pub(super) fn read_common(&self, to: &mut Common) {
        let sk = self.sk.as_ptr();
        to.psock = self.psock();
        to.socket_state = self.socket.map_or(0, |socket| {
            // SAFETY: It is valid by the type's invariant.
            unsafe { read_once!((*socket.as_ptr()).state) }
        });
        // SAFETY: The socket is valid by the type's invariant. All of these are plain numbers,
        // `sk_flags` the only member of its union that a full socket has.
        unsafe {
            to.state = read_once!((*sk).__sk_common.skc_state);
            to.shutdown = read_once!((*sk).sk_shutdown) & SHUTDOWN_MASK;
            to.flags = SockFlags(
                (&raw const (*sk).__sk_common.__bindgen_anon_5)
                    .cast::<usize>()
                    .read_volatile(),
            );
            to.linger = read_once!((*sk).sk_lingertime) as u64 / HZ;
            to.err = read_once!((*sk).sk_err).unsigned_abs();
            to.soft_err = read_once!((*sk).sk_err_soft).unsigned_abs();
            to.rmem = read_once!((*sk).sk_backlog.rmem_alloc.counter).max(0) as u32;
            to.rcvbuf = read_once!((*sk).sk_rcvbuf).max(0) as u32;
            // The socket itself counts as one byte until it is freed.
            to.wmem = read_once!((*sk).sk_wmem_alloc.refs.counter)
                .saturating_sub(1)
                .max(0) as u32;
            to.sndbuf = read_once!((*sk).sk_sndbuf).max(0) as u32;
            to.drops = bindings::sk_drops_read(sk) as u32;
            to.backlog = if to.listens() {
                read_once!((*sk).sk_max_ack_backlog)
            } else {
                0
            };
        }
    }

    /// Reads what a sockmap keeps for it.
    fn psock(&self) -> Option<Psock> {
        let sk = self.sk.as_ptr();
        // SAFETY: The socket is valid by the type's invariant.
        if unsafe { read_once!((*sk).sk_user_data) }.is_null() {
            return None;
        }
        let _rcu = rcu::read_lock();
        // SAFETY: The socket is valid, and the psock for as long as RCU is held.
        unsafe {
            let psock = bindings::sk_psock(sk);
            if psock.is_null() {
                return None;
            }
            Some(Psock {
                bytes: read_once!((*psock).msg_tot_len),
                has_verdict: !read_once!((*psock).progs.stream_verdict).is_null()
                    || !read_once!((*psock).progs.skb_verdict).is_null(),
            })
        }
    }

    /// Waits until no process owns the socket, and keeps it so.
    ///
    /// `EBUSY` when it stayed owned for [`PATIENCE`] (the owner may sleep on a page fault that a
    /// program serves), `EINTR` on a fatal signal.
    pub(crate) fn lock(&self) -> Result<SockGuard<'f>> {
        let sk = self.sk.as_ptr();
        let mut since = None;
        loop {
            // SAFETY: The socket is valid by the type's invariant. lock_sock() begins with this
            // lock: while it is held nobody can become the owner.
            unsafe { bindings::sock_spin_lock_bh(sk) };
            let guard = SockGuard {
                socket: *self,
                _hold: Lock::Socket.begin(),
                _nts: NotThreadSafe,
            };
            // SAFETY: The socket is valid, and its spinlock is held.
            if !unsafe { bindings::sock_owned_by_user_nocheck(sk) } {
                // INVARIANT: The lock is taken, and nobody owns the socket.
                return Ok(guard);
            }
            drop(guard);
            if interrupted() {
                return Err(EINTR);
            }
            // Nearly all are free at once, and never need the time.
            let since: &mut Instant<Monotonic> = since.get_or_insert_with(Instant::now);
            if since.elapsed().as_millis() >= PATIENCE {
                return Err(EBUSY);
            }
            fsleep(Delta::from_micros(100));
        }
    }

    /// Returns the receive queue.
    pub(super) fn receive_queue(&self) -> NonNull<bindings::sk_buff_head> {
        // SAFETY: The socket is valid by the type's invariant, and the queue is part of it.
        unsafe { NonNull::new_unchecked(&raw mut (*self.sk.as_ptr()).sk_receive_queue) }
    }
}

/// A socket that no process owns, and that none can come to own: its spinlock is held.
///
/// The holder must not sleep, and must release it soon: incoming packets wait.
///
/// # Invariants
///
/// `sk_lock.slock` is held by this thread with bottom halves off. Outside [`Socket::lock`]
/// `sk_lock.owned` is 0.
pub(crate) struct SockGuard<'f> {
    socket: Socket<'f>,
    _hold: Hold,
    _nts: NotThreadSafe,
}

impl<'f> SockGuard<'f> {
    /// Returns the socket.
    pub(super) fn socket(&self) -> &Socket<'f> {
        &self.socket
    }
}

impl Drop for SockGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held by the type's invariant.
        unsafe { bindings::sock_spin_unlock_bh(self.socket.sk.as_ptr()) };
    }
}
