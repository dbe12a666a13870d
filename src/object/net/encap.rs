// SPDX-License-Identifier: GPL-2.0

//! UDP sockets that receive encapsulated packets.
//!
//! Nothing in a datagram says that it contains another packet. The socket that receives it says so: a tunnel sets
//! `encap_rcv` of its socket (setup_udp_tunnel_sock()), and that function identifies the tunnel's protocol.
//!
//! C header: [`include/net/udp_tunnel.h`](srctree/include/net/udp_tunnel.h)

use crate::bindings;
use crate::object::{net::socket::Socket, sync::read_once};
use core::ptr;
use kernel::sync::rcu;

/// What a UDP socket receives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encap {
    Vxlan,
    Geneve,
    Fou,
    Gue,
    Gtp,
    Esp,
    L2tp,
    WireGuard,
    Bareudp,
    /// A protocol that has no name here.
    Other,
}

/// Where a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// In network order, IPv4's in the first four bytes.
    pub(crate) address: [u8; 16],
    pub(crate) is_ipv6: bool,
    /// In host order.
    pub(crate) port: u16,
    /// The device that it came in by, or 0.
    pub(crate) device: i32,
}

/// The functions that tunnels set as `encap_rcv`.
const RECEIVERS: [(&[u8], Encap); 10] = [
    (b"vxlan_rcv", Encap::Vxlan),
    (b"geneve_udp_encap_recv", Encap::Geneve),
    (b"fou_udp_recv", Encap::Fou),
    (b"gue_udp_recv", Encap::Gue),
    (b"gtp_encap_recv", Encap::Gtp),
    (b"xfrm4_udp_encap_rcv", Encap::Esp),
    (b"xfrm6_udp_encap_rcv", Encap::Esp),
    (b"l2tp_udp_encap_recv", Encap::L2tp),
    (b"wg_receive", Encap::WireGuard),
    (b"bareudp_udp_encap_recv", Encap::Bareudp),
];

impl Socket<'_> {
    /// Returns what the UDP socket receives that a datagram goes to, in the network namespace of this socket; none
    /// where there is no such socket, or where it receives plain datagrams. A socket that is connected is not found.
    pub(crate) fn encap_at(&self, to: &Destination) -> Option<Encap> {
        let _rcu = rcu::read_lock();
        let port = to.port.to_be();
        let zero = bindings::in6_addr::default();
        // SAFETY: The socket is valid by the type's invariant, and keeps its network namespace. RCU, which is held,
        // keeps the UDP socket (SOCK_RCU_FREE, set by udp_lib_get_port()): a reference is not needed. It is a
        // udp_sock, as the table has no others.
        let receiver = unsafe {
            let net = (*self.as_ptr()).__sk_common.skc_net.net;
            let sk = if to.is_ipv6 {
                let address = (&raw const to.address).cast::<bindings::in6_addr>();
                let address = address.read_unaligned();
                bindings::__udp6_lib_lookup(
                    net,
                    &zero,
                    0,
                    &address,
                    port,
                    to.device,
                    0,
                    ptr::null_mut(),
                )
            } else {
                let [a, b, c, d, ..] = to.address;
                let address = u32::from_ne_bytes([a, b, c, d]);
                let device = to.device;
                bindings::__udp4_lib_lookup(net, 0, 0, address, port, device, 0, ptr::null_mut())
            };
            if sk.is_null() {
                return None;
            }
            let udp = sk.cast::<bindings::udp_sock>();
            if read_once!((*udp).encap_type) == 0 {
                return None;
            }
            read_once!((*udp).encap_rcv)?
        };
        Some(name_of(receiver as usize))
    }
}

/// Returns the protocol that a function receives.
// Not in the frame of the caller: a kernel stack is small.
#[inline(never)]
fn name_of(receiver: usize) -> Encap {
    let mut symbol = [0u8; bindings::RAVEL_KSYM_SYMBOL_LEN as usize];
    let to = symbol.as_mut_ptr().cast();
    // SAFETY: It writes no more than KSYM_SYMBOL_LEN bytes; the address is only looked up.
    let len = unsafe { bindings::sprint_symbol_no_offset(to, receiver) } as usize;
    // The module's name follows.
    let name = symbol.get(..len).unwrap_or(b"").split(|byte| *byte == b' ');
    let name = name.into_iter().next().unwrap_or(b"");
    let found = RECEIVERS.iter().find(|(known, _)| *known == name);
    found.map_or(Encap::Other, |(_, encap)| *encap)
}
