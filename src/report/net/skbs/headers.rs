// SPDX-License-Identifier: GPL-2.0

//! Where the headers of a packet end, and what its users say to each other begins.
//!
//! This is all that the module makes of a packet's bytes: it goes from header to header by the lengths and the
//! protocol numbers in them, and stops at the first that it does not know or that is not whole. What the headers
//! mean is for whoever reads the report.

#![deny(unsafe_code)]

/// Bytes that are looked at for headers.
pub(super) const MOST: usize = 256;

/// The longest link-layer header that is reported.
const MAX_LINK: usize = 64;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Ethernet in GRE.
const BRIDGED: u16 = 0x6558;
/// The port of VXLAN: nothing in a datagram says that it is one.
const VXLAN_PORT: u16 = 4789;

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
    Vxlan,
    End,
}

/// How many of the bytes are headers. They begin with `link` bytes of a link-layer header, and a header of this
/// EtherType is behind them.
pub(super) fn span(bytes: &[u8], link: usize, protocol: u16) -> usize {
    if link > MAX_LINK || link > bytes.len() {
        return 0;
    }
    let mut at = link;
    let mut next = Next::Network(protocol);
    if protocol == 0 && link == 14 {
        (at, next) = (0, Next::Ethernet);
    }
    while let Some((len, then)) = bytes.get(at..).and_then(|rest| step(next, rest)) {
        if at + len > bytes.len() {
            break;
        }
        at += len;
        next = then;
    }
    at
}

/// The length of the header that the bytes begin with, and what comes after it. None: it is not that, or not
/// known.
fn step(next: Next, bytes: &[u8]) -> Option<(usize, Next)> {
    match next {
        Next::Ethernet => {
            let kind = word(bytes, 12)?;
            // Below, it is a length (802.3).
            let then = if kind < 0x600 {
                Next::End
            } else {
                Next::Network(kind)
            };
            Some((14, then))
        }
        Next::Network(protocol) => network(protocol, bytes),
        Next::Extension(protocol) => extension(protocol, bytes),
        Next::Transport(protocol) => transport(protocol, bytes),
        Next::Vxlan => {
            // The flag that there is a network's number, and zeroes where they must be.
            let is = byte(bytes, 0)? == 0x08 && byte(bytes, 7)? == 0 && bytes[1..4] == [0; 3];
            is.then_some((8, Next::Ethernet))
        }
        Next::End => None,
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
        0x8100 | 0x88a8 => Some((4, Next::Network(word(bytes, 2)?))),
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
        // UDP.
        17 if word(bytes, 2)? == VXLAN_PORT => Some((8, Next::Vxlan)),
        17 => Some((8, Next::End)),
        // ICMP and ICMPv6: what is behind is payload.
        1 | 58 => Some((8, Next::End)),
        // GRE, of version 0 and without routes.
        47 => {
            let flags = word(bytes, 0)?;
            (flags & 0x4007 == 0).then_some(())?;
            let fields = [0x8000, 0x2000, 0x1000]
                .iter()
                .filter(|bit| flags & **bit != 0)
                .count();
            Some((4 + 4 * fields, Next::Network(word(bytes, 2)?)))
        }
        // Authentication.
        51 => Some((
            (usize::from(byte(bytes, 1)?) + 2) * 4,
            Next::Transport(byte(bytes, 0)?),
        )),
        // SCTP's common header.
        132 => Some((12, Next::End)),
        _ => None,
    }
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Two bytes in network order.
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}
