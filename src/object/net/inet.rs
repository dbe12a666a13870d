// SPDX-License-Identifier: GPL-2.0

//! Sockets of IPv4 and IPv6: their addresses, and the kinds of which no more is known.
//!
//! C header: [`include/net/inet_sock.h`](srctree/include/net/inet_sock.h)

use crate::bindings;
use crate::object::net::{
    socket::{Ident, SockGuard},
    state::{Own, State},
};
use core::ptr::NonNull;

/// An address and a port, that of IPv4 in the first four bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Address {
    pub(crate) bytes: [u8; 16],
    pub(crate) port: u16,
}

/// The addresses of an inet socket.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    /// `AF_INET` or `AF_INET6`.
    pub(crate) family: u16,
    pub(crate) local: Address,
    /// None where the socket is not connected.
    pub(crate) remote: Option<Address>,
}

/// Returns `skc_daddr` and `skc_rcv_saddr`.
///
/// # Safety
///
/// `sk` is a valid socket, request or TIME_WAIT socket of an inet family.
pub(super) unsafe fn ipv4_pair(sk: *const bindings::sock) -> [[u8; 4]; 2] {
    // SAFETY: By this function's requirements. The union's members are these two, or both as one
    // number.
    unsafe {
        (&raw const (*sk).__sk_common.__bindgen_anon_1)
            .cast::<[[u8; 4]; 2]>()
            .read_volatile()
    }
}

/// Returns the destination's port (`skc_dport`) in host order.
///
/// # Safety
///
/// As [`ipv4_pair`].
pub(super) unsafe fn destination_port(sk: *const bindings::sock) -> u16 {
    // SAFETY: By this function's requirements. It is the first of the union's pair.
    u16::from_be(unsafe {
        (&raw const (*sk).__sk_common.__bindgen_anon_3)
            .cast::<u16>()
            .read_volatile()
    })
}

/// Returns an IPv6 address.
///
/// # Safety
///
/// The place is valid for reading. Where it changes meanwhile, the address may be of neither time.
pub(super) unsafe fn ipv6(address: *const bindings::in6_addr) -> [u8; 16] {
    // SAFETY: By this function's requirements; an address is 16 bytes.
    unsafe { address.cast::<[u8; 16]>().read_volatile() }
}

/// Reads the destination's address and port of an inet socket.
///
/// # Safety
///
/// `sk` is a valid full socket of an inet family.
pub(super) unsafe fn destination(sk: *const bindings::sock, family: u16) -> Address {
    let mut address = Address::default();
    // SAFETY: By this function's requirements.
    unsafe {
        address.port = destination_port(sk);
        if u32::from(family) == bindings::AF_INET6 {
            address.bytes = ipv6(&raw const (*sk).__sk_common.skc_v6_daddr);
        } else {
            address.bytes[..4].copy_from_slice(&ipv4_pair(sk)[0]);
        }
    }
    address
}

/// An inet socket whose spinlock is held, and that no process owns.
///
/// # Invariants
///
/// The guard's socket is an `inet_sock`.
pub(crate) struct InetGuard<'g> {
    guard: &'g SockGuard<'g>,
    sk: NonNull<bindings::inet_sock>,
    ident: Ident,
}

impl SockGuard<'_> {
    /// Returns it as an inet socket, if it is one.
    pub(crate) fn inet(&self) -> Option<InetGuard<'_>> {
        let ident = self.socket().ident();
        // INVARIANT: By its family.
        ident.is_inet().then(|| InetGuard {
            guard: self,
            sk: self.socket().as_non_null().cast(),
            ident,
        })
    }
}

impl InetGuard<'_> {
    /// Reads its addresses.
    pub(super) fn addresses(&self) -> Addresses {
        let inet = self.sk.as_ptr();
        let family = self.ident.family;
        // SAFETY: It is a valid inet_sock by the type's invariant, and its lock is held.
        unsafe {
            let sk = &raw const (*inet).sk;
            let mut local = Address {
                bytes: [0; 16],
                port: u16::from_be((*inet).inet_sport),
            };
            if u32::from(family) == bindings::AF_INET6 {
                local.bytes = ipv6(&raw const (*sk).__sk_common.skc_v6_rcv_saddr);
            } else {
                // As getsockname(): the address bound to, else the one that packets are sent from.
                let bound = ipv4_pair(sk)[1];
                let address = if bound == [0; 4] {
                    (*inet).inet_saddr.to_ne_bytes()
                } else {
                    bound
                };
                local.bytes[..4].copy_from_slice(&address);
            }
            let remote = destination(sk, family);
            Addresses {
                family,
                local,
                remote: (remote.port != 0).then_some(remote),
            }
        }
    }

    /// Reads a socket of another protocol than TCP and UDP.
    pub(super) fn read(&self, to: &mut State) {
        self.guard.socket().read_common(&mut to.common);
        let receive = self.guard.receive_totals();
        to.queued.receive(&receive);
        if u32::from(self.ident.type_) == bindings::sock_type_SOCK_RAW {
            to.queued.inq = receive.first.into();
            to.queued.outq = to.common.wmem.into();
        }
        to.own = Own::Inet(self.addresses());
    }
}
