// SPDX-License-Identifier: GPL-2.0

//! Where the headers of a packet end, and the payload begins.
//!
//! This is all that the module decodes of a packet's bytes: it goes from header to header by the lengths and the
//! protocol numbers in them, and stops at the first that it does not know or that is truncated. What the headers
//! mean is decoded by the reader of the report.

#![deny(unsafe_code)]

use crate::object::net::encap::{Destination, Encap};

/// Bytes that are looked at for headers.
pub(super) const MOST: usize = 256;

/// The longest link-layer header that is reported.
const MAX_LINK: usize = 64;

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
/// Ethernet in GRE and GENEVE.
pub(super) const BRIDGED: u16 = 0x6558;

/// What comes next.
#[derive(Clone, Copy)]
enum Next {
    Ethernet,
    /// By EtherType.
    Network(u16),
    /// By IP protocol, after an IPv6 header, where extension headers may come.
    Extension(u8),
    /// By IP protocol.
    Transport(u8),
    /// What is in a datagram to this port.
    Datagram(u16),
    Vxlan,
    Geneve,
    /// Of type II or III.
    Erspan(u8),
    End,
}

/// The headers that some bytes begin with.
pub(super) struct Span {
    /// Bytes of them.
    pub(super) len: usize,
    /// What the socket receives that the outermost datagram goes to.
    pub(super) encap: Option<Encap>,
}

/// Returns how many of the bytes are headers. They begin with `link` bytes of a link-layer header, and a header of
/// this EtherType is behind them. `encap_at` says what the receiver of a datagram is.
pub(super) fn span(
    bytes: &[u8],
    link: usize,
    protocol: u16,
    encap_at: &mut dyn FnMut(Destination) -> Option<Encap>,
) -> Span {
    let mut span = Span {
        len: 0,
        encap: None,
    };
    if link > MAX_LINK || link > bytes.len() {
        return span;
    }
    span.len = link;
    let mut next = Next::Network(protocol);
    let mut to = None;
    let mut is_outermost = true;
    while let Some(rest) = bytes.get(span.len..) {
        let Some((len, then)) = step(next, rest) else {
            break;
        };
        if len > rest.len() {
            break;
        }
        to = destination(next, rest).or(to);
        span.len += len;
        next = then;
        if let Next::Datagram(port) = then {
            // What is in the tunnel is received elsewhere.
            let (true, Some(to)) = (is_outermost, to) else {
                break;
            };
            is_outermost = false;
            span.encap = encap_at(Destination { port, ..to });
            next = match span.encap {
                Some(Encap::Vxlan) => Next::Vxlan,
                Some(Encap::Geneve) => Next::Geneve,
                _ => Next::End,
            };
        }
    }
    span
}

/// Returns where an IP header's packet goes, without the port.
fn destination(of: Next, bytes: &[u8]) -> Option<Destination> {
    let mut to = Destination {
        address: [0; 16],
        is_ipv6: false,
        port: 0,
        device: 0,
    };
    match of {
        Next::Network(IPV4) | Next::Transport(4) | Next::Extension(4) => {
            to.address[..4].copy_from_slice(bytes.get(16..20)?);
        }
        Next::Network(IPV6) | Next::Transport(41) | Next::Extension(41) => {
            to.is_ipv6 = true;
            to.address.copy_from_slice(bytes.get(24..40)?);
        }
        _ => return None,
    }
    Some(to)
}

/// Returns the length of the header that the bytes begin with, and what comes after it. None: it is not that, or not
/// known.
fn step(next: Next, bytes: &[u8]) -> Option<(usize, Next)> {
    match next {
        Next::Ethernet => Some((14, ethertype(word(bytes, 12)?))),
        Next::Network(protocol) => network(protocol, bytes),
        Next::Extension(protocol) => extension(protocol, bytes),
        Next::Transport(protocol) => transport(protocol, bytes),
        Next::Vxlan => vxlan(bytes),
        Next::Geneve => {
            let first = byte(bytes, 0)?;
            let options = usize::from(first & 0x3f) * 4;
            (first >> 6 == 0).then_some(())?;
            Some((8 + options, Next::Network(word(bytes, 2)?)))
        }
        Next::Erspan(kind) => erspan(kind, bytes),
        Next::Datagram(_) | Next::End => None,
    }
}

/// Returns what an EtherType says; below 0x600 it is a length (802.3).
fn ethertype(kind: u16) -> Next {
    match kind {
        ..0x600 => Next::End,
        kind => Next::Network(kind),
    }
}

/// VXLAN, and VXLAN-GPE, which says what it carries.
fn vxlan(bytes: &[u8]) -> Option<(usize, Next)> {
    let flags = byte(bytes, 0)?;
    // vxlan_rcv() drops a packet without a VNI.
    (flags & 0x08 != 0).then_some(())?;
    let then = match (flags & 0x04, byte(bytes, 3)?) {
        (0, _) | (_, 3) => Next::Ethernet,
        (_, 1) => Next::Network(IPV4),
        (_, 2) => Next::Network(IPV6),
        _ => Next::End,
    };
    Some((8, then))
}

fn erspan(kind: u8, bytes: &[u8]) -> Option<(usize, Next)> {
    let version = byte(bytes, 0)? >> 4;
    match (kind, version) {
        (2, 1) => Some((8, Next::Ethernet)),
        (3, 2) => {
            let flags = word(bytes, 10)?;
            let len = if flags & 1 != 0 { 20 } else { 12 };
            // What it carries, if not Ethernet.
            let then = match flags >> 10 & 0x1f {
                0 => Next::Ethernet,
                _ => Next::End,
            };
            Some((len, then))
        }
        _ => None,
    }
}

fn network(protocol: u16, bytes: &[u8]) -> Option<(usize, Next)> {
    match protocol {
        IPV4 => {
            let first = byte(bytes, 0)?;
            let len = usize::from(first & 0xf) * 4;
            if first >> 4 != 4 || len < 20 {
                return None;
            }
            // Only the first fragment has what is behind.
            let then = if word(bytes, 6)? & 0x1fff == 0 {
                Next::Transport(byte(bytes, 9)?)
            } else {
                Next::End
            };
            Some((len, then))
        }
        IPV6 => {
            (byte(bytes, 0)? >> 4 == 6).then_some(())?;
            Some((40, Next::Extension(byte(bytes, 6)?)))
        }
        // ARP.
        0x0806 => {
            let addresses = usize::from(byte(bytes, 4)?) + usize::from(byte(bytes, 5)?);
            Some((8 + 2 * addresses, Next::End))
        }
        // VLAN tags.
        0x8100 | 0x88a8 => Some((4, ethertype(word(bytes, 2)?))),
        BRIDGED => step(Next::Ethernet, bytes),
        _ => None,
    }
}

fn extension(protocol: u8, bytes: &[u8]) -> Option<(usize, Next)> {
    let then = Next::Extension(byte(bytes, 0)?);
    match protocol {
        // Options hop by hop and for the destination, and routing.
        0 | 43 | 60 => Some(((usize::from(byte(bytes, 1)?) + 1) * 8, then)),
        44 if word(bytes, 2)? & 0xfff8 == 0 => Some((8, then)),
        44 => Some((8, Next::End)),
        51 => Some((authentication(bytes)?, then)),
        _ => transport(protocol, bytes),
    }
}

fn transport(protocol: u8, bytes: &[u8]) -> Option<(usize, Next)> {
    match protocol {
        // IP in IP.
        4 => network(IPV4, bytes),
        41 => network(IPV6, bytes),
        // TCP.
        6 => {
            let len = usize::from(byte(bytes, 12)? >> 4) * 4;
            (len >= 20).then_some((len, Next::End))
        }
        17 => Some((8, Next::Datagram(word(bytes, 2)?))),
        // ICMP and ICMPv6: what is behind is payload. UDP-Lite. ESP: what is behind is encrypted.
        1 | 50 | 58 | 136 => Some((8, Next::End)),
        47 => gre(bytes),
        51 => Some((authentication(bytes)?, Next::Transport(byte(bytes, 0)?))),
        // SCTP's common header.
        132 => Some((12, Next::End)),
        _ => None,
    }
}

/// Returns the length of an authentication header.
fn authentication(bytes: &[u8]) -> Option<usize> {
    let len = (usize::from(byte(bytes, 1)?) + 2) * 4;
    (len >= 12).then_some(len)
}

/// GRE without routes, of version 0, or 1, PPTP's.
fn gre(bytes: &[u8]) -> Option<(usize, Next)> {
    let (flags, protocol) = (word(bytes, 0)?, word(bytes, 2)?);
    let version = flags & 0x7;
    if flags & 0x4000 != 0 || version > 1 {
        return None;
    }
    // Checksum, key and sequence number; in version 1 an acknowledgement number, too.
    let fields = match version {
        0 => flags & 0xb000,
        _ => flags & 0xb080,
    };
    let then = match (version, protocol) {
        (1, _) => Next::End,
        // Type I has no sequence number, and no header of its own.
        (_, 0x88be) if flags & 0x1000 == 0 => Next::Ethernet,
        (_, 0x88be) => Next::Erspan(2),
        (_, 0x22eb) => Next::Erspan(3),
        (_, protocol) => Next::Network(protocol),
    };
    Some((4 + 4 * fields.count_ones() as usize, then))
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Two bytes in network order.
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}
