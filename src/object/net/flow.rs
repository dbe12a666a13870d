// SPDX-License-Identifier: GPL-2.0

//! Where a packet comes from and goes to, by the IP header in its linear part.
//!
//! C headers: [`include/uapi/linux/ip.h`](srctree/include/uapi/linux/ip.h),
//! [`include/uapi/linux/ipv6.h`](srctree/include/uapi/linux/ipv6.h)

use crate::bindings;
use crate::object::net::{
    packet_ref::{PacketRef, UNSET},
    sock::{SockRef, AF_INET, AF_INET6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE},
};

const ETH_P_IP: u16 = bindings::ETH_P_IP as u16;
const ETH_P_IPV6: u16 = bindings::ETH_P_IPV6 as u16;

// include/net/ipv6.h: what may stand between IPv6's header and that of a transport protocol.
const NEXTHDR_HOP: u8 = 0;
const NEXTHDR_ROUTING: u8 = 43;
const NEXTHDR_FRAGMENT: u8 = 44;
const NEXTHDR_AUTH: u8 = 51;
const NEXTHDR_DEST: u8 = 60;

/// The most extension headers that are passed over. The kernel allows as many options in each by
/// default (IP6_MAX_EXT_HDRS_CNT); of the headers themselves, RFC 8200 expects 7 at most.
const MAX_HEADERS: usize = 12;

/// The prefix of an IPv4 address that IPv6 maps.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Returns whether a header of this kind may precede that of a transport protocol.
#[inline(always)]
pub(in crate::object) fn is_extension(header: u8) -> bool {
    matches!(
        header,
        NEXTHDR_HOP | NEXTHDR_ROUTING | NEXTHDR_FRAGMENT | NEXTHDR_AUTH | NEXTHDR_DEST
    )
}

/// Where a packet, or what belongs to a connection, comes from and goes to.
#[derive(Clone, Copy, Default)]
pub(in crate::object) struct Flow {
    /// Addresses in network order, IPv4's in the first four bytes; meaningless where `family` is 0.
    pub(in crate::object) from: [u8; 16],
    pub(in crate::object) to: [u8; 16],
    /// TCP's sequence number.
    pub(in crate::object) sequence: u32,
    /// TCP's acknowledgement number.
    pub(in crate::object) acknowledgement: u32,
    /// TCP's flags, as in bytes 12 and 13 of its header.
    pub(in crate::object) tcp_flags: u16,
    /// TCP's window, as in the header.
    pub(in crate::object) window: u16,
    /// The three before were read.
    pub(in crate::object) has_tcp: bool,
    /// 0: there is no IP header.
    pub(in crate::object) family: u16,
    /// Ports, in host order.
    pub(in crate::object) from_port: u16,
    pub(in crate::object) to_port: u16,
    /// What IP carries.
    pub(in crate::object) protocol: u8,
    pub(in crate::object) has_ports: bool,
    /// It is one of IP's fragments.
    pub(in crate::object) is_fragment: bool,
}

impl Flow {
    /// Returns that of a packet whose network header is said to begin at `network`; without a
    /// family where there is none, or not all of it is in the linear part.
    #[inline]
    pub(in crate::object) fn of(packet: PacketRef<'_>, network: usize) -> Self {
        let mut flow = Self::default();
        // 0 is that of an sk_buff which never had one.
        if network == 0 || network == UNSET.into() {
            return flow;
        }
        match packet.ethertype() {
            ETH_P_IP => flow.read_ipv4(packet, network),
            ETH_P_IPV6 => flow.read_ipv6(packet, network),
            _ => None,
        };
        flow
    }

    /// Returns that of what a socket sends; without a family where it is not one of IP.
    ///
    /// Also of what is left of one in TIME_WAIT, and of a request. Nobody keeps it from changing,
    /// so an address may be half of one connection and half of the next where a program connects
    /// again at this moment.
    #[inline(always)]
    pub(in crate::object) fn of_sock(sk: SockRef<'_>) -> Self {
        let family = sk.family();
        let (mut from, mut to) = ([0; 16], [0; 16]);
        match family {
            AF_INET => {
                from[..4].copy_from_slice(&sk.rcv_saddr());
                to[..4].copy_from_slice(&sk.daddr());
            }
            AF_INET6 => (from, to) = (sk.v6_rcv_saddr(), sk.v6_daddr()),
            _ => return Self::default(),
        }
        let mut from_port = sk.num();
        if sk.is_full() {
            from_port = sk.inet_sport();
            // As getsockname(): the address bound to, else the one that packets are sent from.
            if family == AF_INET && from[..4] == [0; 4] {
                from[..4].copy_from_slice(&sk.inet_saddr());
            }
        }
        Self {
            from,
            to,
            family,
            from_port,
            to_port: sk.dport(),
            protocol: sk.protocol() as u8,
            has_ports: true,
            ..Self::default()
        }
    }

    #[inline]
    fn read_ipv4(&mut self, packet: PacketRef<'_>, at: usize) -> Option<()> {
        let header: [u8; 20] = packet.read(at)?;
        let words = usize::from(header[0] & 0xf);
        if header[0] >> 4 != 4 || words < 5 {
            return None;
        }
        self.family = AF_INET;
        self.from[..4].copy_from_slice(&header[12..16]);
        self.to[..4].copy_from_slice(&header[16..20]);
        self.protocol = header[9];
        // More fragments, and the offset of this one.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        self.is_fragment = fragment != 0;
        // The ports are in the first fragment.
        if fragment & 0x1fff == 0 {
            self.read_ports(packet, at.wrapping_add(words.wrapping_mul(4)));
        }
        Some(())
    }

    #[inline]
    fn read_ipv6(&mut self, packet: PacketRef<'_>, at: usize) -> Option<()> {
        let header: [u8; 40] = packet.read(at)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        self.family = AF_INET6;
        self.from.copy_from_slice(&header[8..24]);
        self.to.copy_from_slice(&header[24..40]);
        self.protocol = header[6];
        if !is_extension(self.protocol) {
            self.read_ports(packet, at.wrapping_add(header.len()));
        } else if let Some(at) = self.skip_extensions(packet, at.wrapping_add(header.len())) {
            self.read_ports(packet, at);
        }
        Some(())
    }

    /// Passes over extension headers, and returns where the header of `protocol` begins; none where
    /// it is in another fragment, or beyond the linear part. Then `protocol` is the kind of the
    /// first header that cannot be read.
    fn skip_extensions(&mut self, packet: PacketRef<'_>, begin: usize) -> Option<usize> {
        let mut at = begin;
        for _ in 0..MAX_HEADERS {
            let (kind, header) = (self.protocol, packet.read::<4>(at)?);
            let units = usize::from(header[1]);
            let len = match kind {
                NEXTHDR_FRAGMENT => 8,
                NEXTHDR_AUTH => units.wrapping_add(2).wrapping_mul(4),
                _ if is_extension(kind) => units.wrapping_add(1).wrapping_mul(8),
                _ => return Some(at),
            };
            self.protocol = header[0];
            if kind == NEXTHDR_FRAGMENT {
                // The offset in eights, and whether there are more.
                let fragment = u16::from_be_bytes([header[2], header[3]]) & 0xfff9;
                self.is_fragment |= fragment != 0;
                if fragment & 0xfff8 != 0 {
                    return None;
                }
            }
            at = at.saturating_add(len);
        }
        (!is_extension(self.protocol)).then_some(at)
    }

    #[inline]
    fn read_ports(&mut self, packet: PacketRef<'_>, at: usize) {
        let has_ports = matches!(
            self.protocol,
            IPPROTO_TCP | IPPROTO_UDP | IPPROTO_UDPLITE | IPPROTO_SCTP
        );
        if !has_ports {
            return;
        }
        if let Some([a, b, c, d]) = packet.read(at) {
            self.has_ports = true;
            self.from_port = u16::from_be_bytes([a, b]);
            self.to_port = u16::from_be_bytes([c, d]);
        }
        if self.protocol == IPPROTO_TCP {
            if let Some(header) = packet.read::<16>(at) {
                let [.., s0, s1, s2, s3, a0, a1, a2, a3, f0, f1, w0, w1] = header;
                self.sequence = u32::from_be_bytes([s0, s1, s2, s3]);
                self.acknowledgement = u32::from_be_bytes([a0, a1, a2, a3]);
                self.tcp_flags = u16::from_be_bytes([f0 & 0xf, f1]);
                self.window = u16::from_be_bytes([w0, w1]);
                self.has_tcp = true;
            } else if let Some([.., a, b, c, d]) = packet.read::<8>(at) {
                self.sequence = u32::from_be_bytes([a, b, c, d]);
            }
        }
    }

    /// Returns the flow of an answer.
    pub(in crate::object) fn reply(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            from_port: self.to_port,
            to_port: self.from_port,
            ..self
        }
    }

    /// Returns whether an address, as IPv6 has it, is that of an end.
    #[inline(always)]
    pub(in crate::object) fn has_address(&self, address: &[u8; 16]) -> bool {
        match self.family {
            0 => false,
            AF_INET => {
                address[..12] == MAPPED
                    && (address[12..] == self.from[..4] || address[12..] == self.to[..4])
            }
            _ => *address == self.from || *address == self.to,
        }
    }

    /// Returns whether it goes to a socket or comes from it.
    pub(in crate::object) fn is_of(&self, sk: SockRef<'_>) -> bool {
        if !sk.is_inet() || sk.protocol() != u16::from(self.protocol) || !self.has_ports {
            return false;
        }
        self.is_from(sk) || self.reply().is_from(sk)
    }

    /// Returns whether it is one that this socket sends, by the same comparison as the kernel's own
    /// look-up; it may be connected anew just now. A TCP socket that is not connected sends none,
    /// and what it receives makes connections.
    fn is_from(&self, sk: SockRef<'_>) -> bool {
        let port = sk.dport();
        let any = port == 0;
        if sk.num() != self.from_port || (any && sk.is_tcp()) || (!any && port != self.to_port) {
            return false;
        }
        if self.family == AF_INET {
            if sk.family() == AF_INET6 && sk.is_v6only() {
                return false;
            }
            let local = sk.rcv_saddr();
            return (local == [0; 4] || local == self.from[..4])
                && (any || sk.daddr() == self.to[..4]);
        }
        if sk.family() != AF_INET6 {
            return false;
        }
        let local = sk.v6_rcv_saddr();
        (local == [0; 16] || local == self.from) && (any || sk.v6_daddr() == self.to)
    }
}
