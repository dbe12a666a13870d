//! Link layer, network layer and transport headers.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{ArpPacketSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::{ARP, BRIDGED, IPV4, IPV6, Next, Step, Version, tcp, tunnels};
use crate::EtherType;

/// Decodes the header that the bytes begin with. Its length may exceed them: then it is truncated.
pub(super) fn step(next: Next, bytes: &[u8]) -> Option<Step> {
    match next {
        Next::Ethernet => ethernet(bytes),
        Next::Network(protocol) => network(protocol, bytes),
        Next::Ip(protocol, Version::Six) => extension(protocol, bytes),
        Next::Ip(protocol, Version::Four) => transport(protocol, Version::Four, bytes),
        Next::Vxlan => tunnels::vxlan(bytes),
        Next::Geneve => tunnels::geneve(bytes),
        Next::Erspan(kind) => tunnels::erspan(kind, bytes),
        Next::End => None,
    }
}

/// Two bytes in network order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Four bytes in network order.
pub(super) fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some((u32::from(word(bytes, at)?) << 16) | u32::from(word(bytes, at + 2)?))
}

pub(super) fn ether_type(kind: u16) -> String {
    match EtherType(kind).name() {
        Some(name) if kind >= 0x600 => name.to_owned(),
        _ => EtherType(kind).to_string(),
    }
}

fn ethernet(bytes: &[u8]) -> Option<Step> {
    let header: &[u8; 14] = bytes.first_chunk()?;
    let kind = word(header, 12)?;
    let (to, from) = (mac(&header[..6]), mac(&header[6..12]));
    Some(Step {
        name: "Ethernet",
        len: 14,
        says: format!("{from} → {to}, type {}", ether_type(kind)),
        fields: vec![
            ("dst", to),
            ("src", from),
            ("type", EtherType(kind).to_string()),
        ],
        // Below, it is a length (802.3).
        next: if kind < 0x600 {
            Next::End
        } else {
            Next::Network(kind)
        },
    })
}

fn network(protocol: u16, bytes: &[u8]) -> Option<Step> {
    match protocol {
        IPV4 => ipv4(bytes),
        IPV6 => ipv6(bytes),
        ARP => arp(bytes),
        0x8100 => vlan("802.1Q", bytes),
        0x88a8 => vlan("802.1ad", bytes),
        BRIDGED => ethernet(bytes),
        _ => None,
    }
}

/// The text of a VLAN tag's control information.
pub fn vlan_tag(tci: u16) -> String {
    let mut text = format!("VLAN {}, priority {}", tci & 0xfff, tci >> 13);
    if tci & 0x1000 != 0 {
        text += ", DEI";
    }
    text
}

fn vlan(name: &'static str, bytes: &[u8]) -> Option<Step> {
    let (tci, kind) = (word(bytes, 0)?, word(bytes, 2)?);
    Some(Step {
        name,
        len: 4,
        says: format!("{}, type {}", vlan_tag(tci), ether_type(kind)),
        fields: vec![
            ("priority", (tci >> 13).to_string()),
            ("dei", ((tci >> 12) & 1).to_string()),
            ("id", (tci & 0xfff).to_string()),
            ("type", EtherType(kind).to_string()),
        ],
        next: if kind < 0x600 {
            Next::End
        } else {
            Next::Network(kind)
        },
    })
}

fn ipv4(bytes: &[u8]) -> Option<Step> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    let protocol = header.protocol();
    let offset = header.fragments_offset().value() * 8;
    let is_fragment = header.more_fragments() || offset > 0;
    let (from, to) = (header.source_addr(), header.destination_addr());
    let mut says = format!(
        "{from} → {to}, {}, {} bytes, TTL {}",
        ip_number(protocol),
        header.total_len(),
        header.ttl()
    );
    let mut fields = vec![
        ("src", from.to_string()),
        ("dst", to.to_string()),
        ("protocol", protocol.0.to_string()),
        ("len", header.total_len().to_string()),
        ("ttl", header.ttl().to_string()),
    ];
    if is_fragment {
        says += &fragment(offset);
        fields.push(("fragment", offset.to_string()));
    }
    if !header.options().is_empty() {
        says += &format!(", {} bytes of options", header.options().len());
    }
    Some(Step {
        name: "IPv4",
        len: header.slice().len(),
        says,
        fields,
        next: match offset {
            0 => Next::Ip(protocol.0, Version::Four),
            _ => Next::End,
        },
    })
}

/// Only the first fragment of a packet contains the transport header.
fn fragment(offset: u16) -> String {
    match offset {
        0 => ", fragment at 0".to_owned(),
        _ => format!(", fragment at {offset}, without ports"),
    }
}

fn ipv6(bytes: &[u8]) -> Option<Step> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let next = header.next_header();
    let (from, to) = (header.source_addr(), header.destination_addr());
    Some(Step {
        name: "IPv6",
        len: 40,
        says: format!(
            "{from} → {to}, {}, {} bytes behind it, hop limit {}",
            ip_number(next),
            header.payload_length(),
            header.hop_limit()
        ),
        fields: vec![
            ("src", from.to_string()),
            ("dst", to.to_string()),
            ("next", next.0.to_string()),
            ("len", header.payload_length().to_string()),
            ("hop_limit", header.hop_limit().to_string()),
        ],
        next: Next::Ip(next.0, Version::Six),
    })
}

fn arp(bytes: &[u8]) -> Option<Step> {
    let packet = ArpPacketSlice::from_slice(bytes).ok()?.to_packet();
    let address = |bytes: &[u8]| match bytes {
        [a, b, c, d] => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        bytes => match <[u8; 16]>::try_from(bytes) {
            Ok(six) => Ipv6Addr::from(six).to_string(),
            Err(_) => mac(bytes),
        },
    };
    let (from, to) = (
        address(packet.sender_protocol_addr()),
        address(packet.target_protocol_addr()),
    );
    let says = match packet.operation.0 {
        1 => format!("who has {to}? asks {from}"),
        2 => format!("{from} is at {}", mac(packet.sender_hw_addr())),
        other => format!("operation {other}, {from} to {to}"),
    };
    Some(Step {
        name: "ARP",
        len: packet.packet_len(),
        says,
        fields: vec![
            ("operation", packet.operation.0.to_string()),
            ("sender", from),
            ("target", to),
        ],
        next: Next::End,
    })
}

/// Decodes an IPv6 extension header, or the header behind the last one.
fn extension(protocol: u8, bytes: &[u8]) -> Option<Step> {
    let name = match protocol {
        0 => "hop-by-hop options",
        43 => "routing",
        44 => "fragment",
        60 => "destination options",
        _ => return transport(protocol, Version::Six, bytes),
    };
    let head: &[u8; 8] = bytes.first_chunk()?;
    let then = ip_number(IpNumber(head[0]));
    let mut step = Step {
        name,
        len: (usize::from(head[1]) + 1) * 8,
        says: format!("then {then}"),
        fields: vec![("next", head[0].to_string())],
        next: Next::Ip(head[0], Version::Six),
    };
    match protocol {
        43 => {
            step.says = format!("type {}, {}", head[2], step.says);
            step.fields.push(("type", head[2].to_string()));
        }
        44 => {
            let offset = word(head, 2)? & 0xfff8;
            step.len = 8;
            step.says = format!("at {offset}, then {then}");
            step.fields.push(("fragment", offset.to_string()));
            if offset != 0 {
                step.says += ", without ports";
                step.next = Next::End;
            }
        }
        _ => {}
    }
    Some(step)
}

fn transport(protocol: u8, version: Version, bytes: &[u8]) -> Option<Step> {
    match protocol {
        4 => ipv4(bytes),
        41 => ipv6(bytes),
        6 => tcp::tcp(bytes),
        17 => {
            let mut step = ports("UDP", 8, bytes)?;
            let len = word(bytes, 4)?;
            step.says += &format!(", {len} bytes");
            step.fields.push(("len", len.to_string()));
            Some(step)
        }
        136 => ports("UDP-Lite", 8, bytes),
        132 => ports("SCTP", 12, bytes),
        1 => icmp("ICMP", bytes),
        58 => icmp("ICMPv6", bytes),
        47 => tunnels::gre(bytes),
        50 => {
            let (spi, sequence) = (long(bytes, 0)?, long(bytes, 4)?);
            Some(Step {
                name: "ESP",
                len: 8,
                says: format!("SPI {spi:#010x}, sequence {sequence}, then encrypted"),
                fields: vec![
                    ("spi", format!("{spi:#010x}")),
                    ("sequence", sequence.to_string()),
                ],
                next: Next::End,
            })
        }
        51 => {
            let head: &[u8; 12] = bytes.first_chunk()?;
            let spi = long(head, 4)?;
            Some(Step {
                name: "AH",
                len: (usize::from(head[1]) + 2) * 4,
                says: format!("SPI {spi:#010x}, then {}", ip_number(IpNumber(head[0]))),
                fields: vec![
                    ("next", head[0].to_string()),
                    ("spi", format!("{spi:#010x}")),
                ],
                next: Next::Ip(head[0], version),
            })
            // Its fixed part is 12 bytes.
            .filter(|step| step.len >= head.len())
        }
        _ => None,
    }
}

fn ports(name: &'static str, len: usize, bytes: &[u8]) -> Option<Step> {
    let (from, to) = (word(bytes, 0)?, word(bytes, 2)?);
    Some(Step {
        name,
        len,
        says: format!("{from} → {to}"),
        fields: vec![("sport", from.to_string()), ("dport", to.to_string())],
        next: Next::End,
    })
}

fn icmp(name: &'static str, bytes: &[u8]) -> Option<Step> {
    let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
    Some(Step {
        name,
        len: 8,
        says: format!("type {kind}, code {code}"),
        fields: vec![("type", kind.to_string()), ("code", code.to_string())],
        next: Next::End,
    })
}

fn mac(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn ip_number(number: IpNumber) -> String {
    match number.keyword_str() {
        Some(name) => name.to_owned(),
        None => format!("protocol {}", number.0),
    }
}
