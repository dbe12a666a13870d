//! Headers of tunnels.

use super::headers::{ether_type, long, word};
use super::{BRIDGED, IPV4, IPV6, Next, Step};
use crate::EtherType;

/// VXLAN, and VXLAN-GPE: the packet was sent to a VXLAN socket.
pub(super) fn vxlan(bytes: &[u8]) -> Option<Step> {
    const HAS_VNI: u8 = 0x08;
    const HAS_PROTOCOL: u8 = 0x04;
    const HAS_GROUP: u8 = 0x80;
    let header: &[u8; 8] = bytes.first_chunk()?;
    // vxlan_rcv() drops a packet without it.
    if header[0] & HAS_VNI == 0 {
        return None;
    }
    let vni = long(header, 4)? >> 8;
    let mut step = Step {
        name: "VXLAN",
        len: 8,
        says: format!("VNI {vni}"),
        fields: vec![("vni", vni.to_string())],
        next: Next::Ethernet,
    };
    if header[0] & HAS_PROTOCOL != 0 {
        step.name = "VXLAN-GPE";
        let (name, next) = match header[3] {
            1 => ("IPv4", Next::Network(IPV4)),
            2 => ("IPv6", Next::Network(IPV6)),
            3 => ("Ethernet", Next::Ethernet),
            4 => ("NSH", Next::End),
            5 => ("MPLS", Next::End),
            _ => ("an unknown protocol", Next::End),
        };
        step.says += &format!(", carries {name}");
        step.fields.push(("protocol", header[3].to_string()));
        step.next = next;
    } else if header[0] & HAS_GROUP != 0 {
        let group = word(header, 2)?;
        step.says += &format!(", group policy {group}");
        step.fields.push(("group", group.to_string()));
    }
    Some(step)
}

/// GENEVE: the packet was sent to a GENEVE socket.
pub(super) fn geneve(bytes: &[u8]) -> Option<Step> {
    let header: &[u8; 8] = bytes.first_chunk()?;
    // geneve_udp_encap_recv() drops other versions.
    if header[0] >> 6 != 0 {
        return None;
    }
    let options = usize::from(header[0] & 0x3f) * 4;
    let (kind, vni) = (word(header, 2)?, long(header, 4)? >> 8);
    let mut says = format!("VNI {vni}, carries {}", payload(kind));
    if options > 0 {
        says += &format!(", {options} bytes of options");
    }
    Some(Step {
        name: "GENEVE",
        len: 8 + options,
        says,
        fields: vec![
            ("protocol", EtherType(kind).to_string()),
            ("vni", vni.to_string()),
        ],
        next: Next::Network(kind),
    })
}

/// GRE (RFC 2890), and its version 1, PPTP's.
pub(super) fn gre(bytes: &[u8]) -> Option<Step> {
    const CHECKSUM: u16 = 0x8000;
    const ROUTING: u16 = 0x4000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    const ACKNOWLEDGMENT: u16 = 0x0080;
    let (flags, kind) = (word(bytes, 0)?, word(bytes, 2)?);
    let version = flags & 7;
    // gre_parse_header() rejects them.
    if flags & ROUTING != 0 || version > 1 {
        return None;
    }
    let mut step = Step {
        name: "GRE",
        len: 4,
        says: format!("carries {}", payload(kind)),
        fields: vec![("protocol", EtherType(kind).to_string())],
        next: Next::End,
    };
    for (bit, name, shown) in [
        (CHECKSUM, "checksum", false),
        (KEY, "key", true),
        (SEQUENCE, "sequence", true),
        (ACKNOWLEDGMENT, "ack", true),
    ] {
        if flags & bit == 0 || (bit == ACKNOWLEDGMENT && version == 0) {
            continue;
        }
        let value = long(bytes, step.len)?;
        step.len += 4;
        if !shown {
            step.says += &format!(", checksum {:#06x}", value >> 16);
            continue;
        }
        match (bit, version) {
            // PPTP's key is the payload's length and the call's id.
            (KEY, 1) => step.says += &format!(", call {}", value & 0xffff),
            _ => step.says += &format!(", {name} {value}"),
        }
        step.fields.push((name, value.to_string()));
    }
    step.next = match (version, kind) {
        (0, 0x88be) if flags & SEQUENCE == 0 => Next::Erspan(1),
        (0, 0x88be) => Next::Erspan(2),
        (0, 0x22eb) => Next::Erspan(3),
        (0, kind) => Next::Network(kind),
        _ => Next::End,
    };
    if step.next == Next::Erspan(1) {
        // Type I has no header of its own.
        step.says += ", type I";
        step.next = Next::Ethernet;
    }
    Some(step)
}

/// ERSPAN behind GRE, of type II or III.
pub(super) fn erspan(kind: u8, bytes: &[u8]) -> Option<Step> {
    let (first, second) = (word(bytes, 0)?, word(bytes, 2)?);
    let (name, version, mut len) = match kind {
        2 => ("ERSPAN II", 1, 8),
        _ => ("ERSPAN III", 2, 12),
    };
    if first >> 12 != version {
        return None;
    }
    let session = second & 0x3ff;
    let mut step = Step {
        name,
        len,
        says: format!("session {session}, VLAN {}", first & 0xfff),
        fields: vec![
            ("vlan", (first & 0xfff).to_string()),
            ("session", session.to_string()),
        ],
        next: Next::Ethernet,
    };
    if kind == 2 {
        let index = long(bytes, 4)? & 0xf_ffff;
        step.says += &format!(", index {index}");
        step.fields.push(("index", index.to_string()));
    } else {
        let flags = word(bytes, 10)?;
        let (hardware, is_out) = ((flags >> 4) & 0x3f, flags & 8 != 0);
        step.says += &format!(
            ", hardware {hardware}, {}",
            if is_out { "egress" } else { "ingress" }
        );
        step.fields.push(("hardware", hardware.to_string()));
        // A platform specific subheader.
        if flags & 1 != 0 {
            len += 8;
        }
        step.len = len;
        // What it carries, if not Ethernet.
        if (flags >> 10) & 0x1f != 0 {
            step.next = Next::End;
        }
    }
    Some(step)
}

fn payload(kind: u16) -> String {
    match kind {
        BRIDGED => "Ethernet".to_owned(),
        0x88be | 0x22eb => "ERSPAN".to_owned(),
        0x880b => "PPP".to_owned(),
        kind => ether_type(kind),
    }
}
