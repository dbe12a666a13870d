// SPDX-License-Identifier: GPL-2.0

//! A `struct sock` that somebody else holds, as probes see it: read without its lock, so that each
//! value is of a moment of its own.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h)

use crate::bindings;
use crate::object::sync::read_once;
use core::{marker::PhantomData, ptr::NonNull};

pub(in crate::object) const AF_UNIX: u16 = bindings::AF_UNIX as u16;
pub(in crate::object) const AF_INET: u16 = bindings::AF_INET as u16;
pub(in crate::object) const AF_INET6: u16 = bindings::AF_INET6 as u16;

pub(in crate::object) const IPPROTO_TCP: u8 = 6;
pub(in crate::object) const IPPROTO_UDP: u8 = 17;
pub(in crate::object) const IPPROTO_SCTP: u8 = 132;
pub(in crate::object) const IPPROTO_UDPLITE: u8 = 136;

// include/uapi/linux/net.h
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;

// include/net/tcp_states.h
const TCP_SYN_SENT: u8 = 2;
const TCP_SYN_RECV: u8 = 3;
const TCP_FIN_WAIT1: u8 = 4;
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
const TCP_LAST_ACK: u8 = 9;
const TCP_LISTEN: u8 = 10;
const TCP_CLOSING: u8 = 11;
const TCP_NEW_SYN_RECV: u8 = 12;

/// include/net/sock.h: the end of the data has arrived.
const SOCK_DONE: u64 = 1 << 1;

/// include/net/sock.h: RCV_SHUTDOWN and SEND_SHUTDOWN.
const SHUTDOWN_MASK: u8 = 3;

/// A socket, or a connection request or what is left of a socket in TIME_WAIT: what of a `struct
/// sock` these have.
///
/// # Invariants
///
/// Its memory is that of one as long as `'a`. It may be changed at any time.
#[derive(Clone, Copy)]
pub(in crate::object) struct SockRef<'a> {
    sk: NonNull<bindings::sock>,
    held: PhantomData<&'a bindings::sock>,
}

/// What is queued.
#[derive(Clone, Copy, Default)]
pub(in crate::object) struct Queues {
    pub(in crate::object) rx_bytes: u32,
    pub(in crate::object) rx_packets: u32,
    pub(in crate::object) tx_bytes: u32,
    pub(in crate::object) unsent: u32,
    pub(in crate::object) wmem: u32,
}

impl<'a> SockRef<'a> {
    /// # Safety
    ///
    /// If it is not null, its memory is that of a `struct sock` as long as `'a`.
    #[inline(always)]
    pub(in crate::object) unsafe fn from_raw(sk: *const bindings::sock) -> Option<Self> {
        // INVARIANT: By this function's contract.
        NonNull::new(sk.cast_mut()).map(|sk| Self {
            sk,
            held: PhantomData,
        })
    }

    #[inline(always)]
    pub(in crate::object) fn as_ptr(self) -> *const bindings::sock {
        self.sk.as_ptr()
    }

    #[inline(always)]
    pub(in crate::object) fn family(self) -> u16 {
        // SAFETY: By the type's invariant.
        unsafe { read_once!((*self.as_ptr()).__sk_common.skc_family) }
    }

    #[inline(always)]
    pub(in crate::object) fn state(self) -> u8 {
        // SAFETY: By the type's invariant.
        unsafe { read_once!((*self.as_ptr()).__sk_common.skc_state) }
    }

    /// Returns the local port.
    #[inline(always)]
    pub(in crate::object) fn num(self) -> u16 {
        // SAFETY: By the type's invariant. The remote port precedes it.
        unsafe { self.portpair().add(1).read_volatile() }
    }

    /// Returns the remote port.
    #[inline(always)]
    pub(in crate::object) fn dport(self) -> u16 {
        // SAFETY: By the type's invariant.
        u16::from_be(unsafe { self.portpair().read_volatile() })
    }

    #[inline(always)]
    fn portpair(self) -> *const u16 {
        // SAFETY: The place is within the socket, by the type's invariant.
        unsafe { &raw const (*self.as_ptr()).__sk_common.__bindgen_anon_3 }.cast()
    }

    /// Returns the local address of IPv4, in network order: that which packets come to.
    #[inline(always)]
    pub(in crate::object) fn rcv_saddr(self) -> [u8; 4] {
        // SAFETY: By the type's invariant. The remote address precedes it.
        unsafe { self.addrpair().add(1).read_volatile() }
    }

    /// Returns the remote address of IPv4, likewise.
    #[inline(always)]
    pub(in crate::object) fn daddr(self) -> [u8; 4] {
        // SAFETY: By the type's invariant.
        unsafe { self.addrpair().read_volatile() }
    }

    #[inline(always)]
    fn addrpair(self) -> *const [u8; 4] {
        // SAFETY: The place is within the socket, by the type's invariant.
        unsafe { &raw const (*self.as_ptr()).__sk_common.__bindgen_anon_1 }.cast()
    }

    /// Returns the local address of IPv6: that which packets come to.
    #[inline(always)]
    pub(in crate::object) fn v6_rcv_saddr(self) -> [u8; 16] {
        // SAFETY: By the type's invariant.
        unsafe {
            (&raw const (*self.as_ptr()).__sk_common.skc_v6_rcv_saddr)
                .cast::<[u8; 16]>()
                .read_unaligned()
        }
    }

    /// Returns the remote address of IPv6.
    #[inline(always)]
    pub(in crate::object) fn v6_daddr(self) -> [u8; 16] {
        // SAFETY: By the type's invariant.
        unsafe {
            (&raw const (*self.as_ptr()).__sk_common.skc_v6_daddr)
                .cast::<[u8; 16]>()
                .read_unaligned()
        }
    }

    /// Returns whether packets of IPv4 are none of it.
    #[inline(always)]
    pub(in crate::object) fn is_v6only(self) -> bool {
        // SAFETY: By the type's invariant; a byte of bits.
        unsafe { (*self.as_ptr()).__sk_common.skc_ipv6only() != 0 }
    }

    /// Returns its network namespace, which may be null while the memory is set up anew.
    #[inline(always)]
    pub(in crate::object) fn net(self) -> *const bindings::net {
        // SAFETY: By the type's invariant.
        unsafe { read_once!((*self.as_ptr()).__sk_common.skc_net.net).cast_const() }
    }

    /// Returns whether it has more than a request, or what is left in TIME_WAIT.
    #[inline(always)]
    pub(in crate::object) fn is_full(self) -> bool {
        !matches!(self.state(), TCP_TIME_WAIT | TCP_NEW_SYN_RECV)
    }

    /// Returns the inode of the file that it is open by, or 0.
    #[inline(always)]
    pub(in crate::object) fn inode(self) -> u64 {
        if !self.is_full() {
            return 0;
        }
        // SAFETY: By the type's invariant; it is a full socket's memory, or another has the memory
        // since.
        unsafe { read_once!((*self.as_ptr()).sk_ino) }
    }

    #[inline(always)]
    pub(in crate::object) fn protocol(self) -> u16 {
        if !self.is_full() {
            return IPPROTO_TCP.into();
        }
        // SAFETY: As in `inode()`.
        unsafe { read_once!((*self.as_ptr()).sk_protocol) }
    }

    #[inline(always)]
    fn kind(self) -> u16 {
        // SAFETY: By the type's invariant; the caller has found it full.
        unsafe { read_once!((*self.as_ptr()).sk_type) }
    }

    #[inline(always)]
    pub(in crate::object) fn is_inet(self) -> bool {
        matches!(self.family(), AF_INET | AF_INET6)
    }

    #[inline(always)]
    pub(in crate::object) fn is_tcp(self) -> bool {
        self.is_inet() && (!self.is_full() || self.is_of(SOCK_STREAM, IPPROTO_TCP))
    }

    #[inline(always)]
    fn is_of(self, kind: u16, protocol: u8) -> bool {
        self.kind() == kind && self.protocol() == u16::from(protocol)
    }

    /// Returns which directions are shut.
    #[inline(always)]
    pub(in crate::object) fn shutdown(self) -> u8 {
        if !self.is_full() {
            return 0;
        }
        // SAFETY: As in `inode()`.
        unsafe { read_once!((*self.as_ptr()).sk_shutdown) & SHUTDOWN_MASK }
    }

    /// Returns the port bound to, of a full socket of IP: that which `num()` was, before the port
    /// was given up.
    #[inline(always)]
    pub(in crate::object) fn inet_sport(self) -> u16 {
        // SAFETY: By the type's invariant; each full socket of these families begins with this
        // structure.
        u16::from_be(unsafe {
            read_once!((*self.as_ptr().cast::<bindings::inet_sock>()).inet_sport)
        })
    }

    /// Returns the address that packets are sent from, of a full socket of IPv4.
    #[inline(always)]
    pub(in crate::object) fn inet_saddr(self) -> [u8; 4] {
        // SAFETY: Likewise.
        unsafe { read_once!((*self.as_ptr().cast::<bindings::inet_sock>()).inet_saddr) }
            .to_ne_bytes()
    }

    /// Returns the cgroup in which it was made, of a full socket; null: none.
    #[cfg(CONFIG_SOCK_CGROUP_DATA)]
    pub(in crate::object) fn cgroup(self) -> *mut bindings::cgroup {
        // SAFETY: By the type's invariant.
        unsafe { read_once!((*self.as_ptr()).sk_cgrp_data.cgroup) }
    }

    /// Returns what is queued, of a full socket.
    pub(in crate::object) fn queues(self) -> Queues {
        let sk = self.as_ptr();
        // SAFETY: By the type's invariant.
        let (packets, wmem) = unsafe {
            (
                read_once!((*sk).sk_receive_queue.qlen),
                read_once!((*sk).sk_wmem_alloc.refs.counter),
            )
        };
        let mut queues = Queues {
            rx_packets: packets,
            // Of the reference that the socket has on itself, it is no memory.
            wmem: (wmem as u32).wrapping_sub(1),
            ..Queues::default()
        };
        if self.is_tcp() {
            self.tcp_queues(&mut queues);
        } else if self.is_inet() && self.is_of(SOCK_DGRAM, IPPROTO_UDP) {
            // SAFETY: By the type's invariant; it is a UDP socket.
            let more = unsafe { read_once!((*sk.cast::<bindings::udp_sock>()).reader_queue.qlen) };
            queues.rx_packets = packets.wrapping_add(more);
        } else if self.family() == AF_UNIX
            && self.kind() == SOCK_STREAM
            && self.state() != TCP_LISTEN
        {
            // SAFETY: By the type's invariant; it is a unix socket.
            let bytes = unsafe { read_once!((*sk.cast::<bindings::unix_sock>()).inq_len) };
            queues.rx_bytes = bytes as u32;
        }
        queues
    }

    fn tcp_queues(self, queues: &mut Queues) {
        let (sk, state) = (self.as_ptr(), self.state());
        if state == TCP_LISTEN {
            // SAFETY: By the type's invariant.
            queues.rx_packets = unsafe { read_once!((*sk).sk_ack_backlog) };
            return;
        }
        // Until the SYN is acknowledged, it is all that is on its way.
        if matches!(state, TCP_SYN_SENT | TCP_SYN_RECV) {
            return;
        }
        let tp = sk.cast::<bindings::tcp_sock>();
        // SAFETY: By the type's invariant; it is a TCP socket.
        let (received, copied, queued, acknowledged, sent, is_done) = unsafe {
            (
                read_once!((*tp).rcv_nxt),
                read_once!((*tp).copied_seq),
                read_once!((*tp).write_seq),
                read_once!((*tp).snd_una),
                read_once!((*tp).snd_nxt),
                self.flags() & SOCK_DONE != 0,
            )
        };
        queues.rx_bytes = without_fin(received.wrapping_sub(copied), is_done);
        // What was queued is thrown away with the connection; its numbers stay.
        if state == TCP_CLOSE {
            return;
        }
        let fin = matches!(state, TCP_FIN_WAIT1 | TCP_CLOSING | TCP_LAST_ACK);
        queues.tx_bytes = without_fin(queued.wrapping_sub(acknowledged), fin);
        queues.unsent = without_fin(queued.wrapping_sub(sent), fin);
    }

    fn flags(self) -> u64 {
        // SAFETY: By the type's invariant; the union has the flags, of a full socket.
        unsafe {
            (&raw const (*self.as_ptr()).__sk_common.__bindgen_anon_5)
                .cast::<u64>()
                .read_volatile()
        }
    }
}

/// Returns the bytes of data. A FIN takes a sequence number, but is no data. What one thread reads
/// of two numbers while others change them may be less than nothing: then it is nothing.
fn without_fin(bytes: u32, fin: bool) -> u32 {
    if bytes > i32::MAX as u32 {
        return 0;
    }
    bytes.saturating_sub(fin.into())
}

/// Returns the inode of a network namespace; 0 where it is not known.
///
/// # Safety
///
/// If it is not null, it is valid.
#[inline(always)]
pub(in crate::object) unsafe fn netns(net: *const bindings::net) -> u32 {
    if net.is_null() {
        return 0;
    }
    // SAFETY: By this function's contract.
    unsafe { bindings::net_ns_inum(net) }
}
