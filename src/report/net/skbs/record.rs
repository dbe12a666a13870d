// SPDX-License-Identifier: GPL-2.0

//! The records `queue`, `skb`, `frag`, `part` and `header`.

#![deny(unsafe_code)]

use super::{Packet, QueueName, Room, Seen};
use crate::{
    object::net::skb::{Checksum, Control, Flags, Frag, Inner, SkbState},
    report::text::{Line, Text},
};
use kernel::prelude::*;

/// What the kernel keeps in an offset that no layer has set.
const UNSET: u16 = u16::MAX;

/// Whether a layer has set an offset. Where 0 is no sentinel of the kernel's, it is still what an offset is made
/// with, and no place for a header that has others before it.
pub(super) fn is_set(offset: u16, zero_counts: bool) -> bool {
    offset != UNSET && (zero_counts || offset != 0)
}

/// A queue's name in reports.
fn word(name: QueueName) -> &'static [u8] {
    match name {
        QueueName::Receive => b"receive",
        QueueName::Reader => b"reader",
        QueueName::OutOfOrder => b"ofo",
        QueueName::Write => b"write",
        QueueName::Retransmit => b"rtx",
        QueueName::Backlog => b"backlog",
        QueueName::Error => b"error",
    }
}

pub(super) fn emit_queue(text: &mut Text, fd: u32, queue: &Seen) -> Result {
    let mut line = text
        .record("queue")
        .number("fd", fd.into())
        .word("name", word(queue.name));
    if let Some(child) = queue.child {
        line = line.id("child", child);
    }
    line.number("packets", queue.packets as u64)
        .number("shown", queue.skbs.len() as u64)
        .end()
}

/// Emits an sk_buff, and what belongs to it.
pub(super) fn emit_skb(
    text: &mut Text,
    fd: u32,
    queue: QueueName,
    pos: usize,
    skb: &Packet,
    room: &Room,
) -> Result {
    let state = &skb.state;
    let mut line = begin(text, "skb", fd, queue, pos)
        .id("id", skb.id)
        .number("len", state.len.into())
        .number("data_len", state.data_len.into())
        .number("truesize", state.truesize.into())
        .number("data", state.data.into())
        .number("tail", state.tail.into())
        .number("end", state.end.into())
        .offset("mac", state.mac, is_set(state.mac, true));
    for (key, offset) in [
        ("network", state.network),
        ("transport", state.transport),
        ("inner_mac", state.inner_mac),
        ("inner_network", state.inner_network),
        ("inner_transport", state.inner_transport),
    ] {
        line = line.offset(key, offset, is_set(offset, false));
    }
    line = line
        .number("mac_len", state.mac_len.into())
        .number("hdr_len", state.hdr_len.into())
        .hex16("protocol", state.protocol)
        .flag("cloned", state.cloned)
        .word(
            "fclone",
            match state.fclone {
                1 => b"original",
                2 => b"clone",
                _ => b"none",
            },
        )
        .number("users", state.users.into())
        .number("dataref", state.dataref.into())
        .words("flags", flags(state.flags))
        .number("frags", state.nr_frags.into())
        .flag("frag_list", state.frag_list)
        .word("pkt_type", packet_type(state.pkt_type));
    line = checksum(line, state)
        .number("priority", state.priority.into())
        .hex("mark", state.mark as usize)
        .hex("hash", state.hash as usize)
        .number("iif", u64::from(state.iif.max(0) as u32));
    let len = skb.device.iter().position(|byte| *byte == 0);
    if let Some(len) = len.filter(|len| *len > 0) {
        line = line.string("dev", &skb.device[..len]);
    }
    line = optional(line, state);
    control(line, &state.control).end()?;
    emit_pieces(text, fd, queue, pos, skb, room)
}

/// Emits its pages, the sk_buffs that hang on it and its headers.
fn emit_pieces(
    text: &mut Text,
    fd: u32,
    queue: QueueName,
    pos: usize,
    skb: &Packet,
    room: &Room,
) -> Result {
    for (at, frag) in pieces(room, &skb.frags).enumerate() {
        begin(text, "frag", fd, queue, pos)
            .number("index", at as u64)
            .id("page", frag.id)
            .number("offset", frag.offset.into())
            .number("size", frag.size.into())
            .end()?;
    }
    for (at, part) in pieces(room, &skb.parts).enumerate() {
        begin(text, "part", fd, queue, pos)
            .number("index", at as u64)
            .id("id", part.id)
            .number("len", part.size.into())
            .number("data_len", part.offset.into())
            .end()?;
    }
    for (offset, bytes) in &skb.headers {
        if !bytes.is_empty() {
            begin(text, "header", fd, queue, pos)
                .number("offset", (*offset).into())
                .bytes(
                    "bytes",
                    &room.bytes[bytes.start as usize..bytes.end as usize],
                )
                .end()?;
        }
    }
    Ok(())
}

fn begin<'t>(
    text: &'t mut Text,
    kind: &'static str,
    fd: u32,
    queue: QueueName,
    pos: usize,
) -> Line<'t> {
    text.record(kind)
        .number("fd", fd.into())
        .word("queue", word(queue))
        .number("pos", pos as u64)
}

fn pieces<'r>(room: &'r Room, range: &core::ops::Range<u32>) -> impl Iterator<Item = &'r Frag> {
    room.frags[range.start as usize..range.end as usize].iter()
}

fn checksum<'t>(line: Line<'t>, state: &SkbState) -> Line<'t> {
    let line = line
        .word(
            "ip_summed",
            match state.checksum {
                Checksum::None => b"none",
                Checksum::Unnecessary => b"unnecessary",
                Checksum::Complete(_) => b"complete",
                Checksum::Partial(..) => b"partial",
            },
        )
        .number("csum_level", state.csum_level.into());
    match state.checksum {
        Checksum::Complete(sum) => line.hex("csum", sum as usize),
        Checksum::Partial(start, offset) => line
            .number("csum_start", start.into())
            .number("csum_offset", offset.into()),
        Checksum::None | Checksum::Unnecessary => line,
    }
}

/// What most sk_buffs have not.
fn optional<'t>(mut line: Line<'t>, state: &SkbState) -> Line<'t> {
    if let Some(stamp) = state.stamp {
        line = line
            .number("tstamp", stamp.time as u64)
            .word(
                "clock",
                match stamp.clock {
                    0 => b"realtime",
                    1 => b"monotonic",
                    2 => b"tai",
                    _ => b"unknown",
                },
            )
            .signed("age_ns", stamp.age);
    }
    if let Some((protocol, tag)) = state.vlan {
        line = line.hex16("vlan_proto", protocol).hex16("vlan_tci", tag);
    }
    if state.gso_size != 0 || state.gso_type != 0 {
        line = line
            .number("gso_size", state.gso_size.into())
            .number("gso_segs", state.gso_segs.into())
            .words("gso_type", names(state.gso_type, &GSO));
    }
    match state.inner {
        Inner::EtherType(0) | Inner::IpProtocol(0) => line,
        Inner::EtherType(protocol) => line.hex16("inner_protocol", protocol),
        Inner::IpProtocol(protocol) => line.number("inner_ipproto", protocol.into()),
    }
}

/// What the queue's owner keeps with the sk_buff.
fn control<'t>(line: Line<'t>, control: &Control) -> Line<'t> {
    match *control {
        Control::None => line,
        Control::TcpIncoming {
            seq,
            end_seq,
            ack_seq,
            flags,
        } => line
            .number("seq", seq.into())
            .number("end_seq", end_seq.into())
            .words("tcp_flags", names(flags.into(), &TCP))
            .number("ack_seq", ack_seq.into()),
        Control::TcpOutgoing {
            seq,
            end_seq,
            flags,
            sacked,
        } => line
            .number("seq", seq.into())
            .number("end_seq", end_seq.into())
            .words("tcp_flags", names(flags.into(), &TCP))
            .words("sacked", names(sacked.into(), &SACKED)),
        Control::Unix { consumed, fds } => line
            .number("consumed", consumed.into())
            .number("fds", fds.into()),
        Control::Error {
            errno,
            info,
            data,
            origin,
            type_,
            code,
        } => line
            .number("ee_errno", errno.into())
            .number("ee_origin", origin.into())
            .number("ee_type", type_.into())
            .number("ee_code", code.into())
            .number("ee_info", info.into())
            .number("ee_data", data.into()),
    }
}

fn packet_type(kind: u8) -> &'static [u8] {
    match kind {
        0 => b"host",
        1 => b"broadcast",
        2 => b"multicast",
        3 => b"otherhost",
        4 => b"outgoing",
        5 => b"loopback",
        6 => b"user",
        _ => b"kernel",
    }
}

/// The names of the bits that are set.
fn names<'n>(bits: u32, all: &'n [(u32, &'n str)]) -> impl Iterator<Item = &'n [u8]> {
    all.iter()
        .filter(move |(bit, _)| bits & bit != 0)
        .map(|(_, name)| name.as_bytes())
}

/// The names of the flags that are set.
fn flags(set: Flags) -> impl Iterator<Item = &'static [u8]> {
    FLAGS
        .iter()
        .filter(move |(flag, _)| set.has(*flag))
        .map(|(_, name)| name.as_bytes())
}

const FLAGS: [(Flags, &str); 12] = [
    (Flags::NOHDR, "nohdr"),
    (Flags::PEEKED, "peeked"),
    (Flags::HEAD_FRAG, "head_frag"),
    (Flags::PFMEMALLOC, "pfmemalloc"),
    (Flags::RECYCLE, "recycle"),
    (Flags::ENCAPSULATION, "encapsulation"),
    (Flags::L4_HASH, "l4_hash"),
    (Flags::SW_HASH, "sw_hash"),
    (Flags::CSUM_VALID, "csum_valid"),
    (Flags::UNREADABLE, "unreadable"),
    (Flags::IGNORE_DF, "ignore_df"),
    (Flags::SLOW_GRO, "slow_gro"),
];

/// `SKB_GSO_*`.
const GSO: [(u32, &str); 22] = [
    (1 << 0, "tcpv4"),
    (1 << 1, "dodgy"),
    (1 << 2, "tcp_ecn"),
    (1 << 3, "tcp_fixedid_any"),
    (1 << 4, "tcpv6"),
    (1 << 5, "fcoe"),
    (1 << 6, "gre"),
    (1 << 7, "gre_csum"),
    (1 << 8, "ipxip4"),
    (1 << 9, "ipxip6"),
    (1 << 10, "udp_tunnel"),
    (1 << 11, "udp_tunnel_csum"),
    (1 << 12, "partial"),
    (1 << 13, "tunnel_remcsum"),
    (1 << 14, "sctp"),
    (1 << 15, "esp"),
    (1 << 16, "udp"),
    (1 << 17, "udp_l4"),
    (1 << 18, "fraglist"),
    (1 << 19, "tcp_accecn"),
    (1 << 30, "tcp_fixedid"),
    (1 << 31, "tcp_fixedid_inner"),
];

/// TCP's flags, as in its header's bytes 12 and 13.
const TCP: [(u32, &str); 9] = [
    (0x1, "fin"),
    (0x2, "syn"),
    (0x4, "rst"),
    (0x8, "psh"),
    (0x10, "ack"),
    (0x20, "urg"),
    (0x40, "ece"),
    (0x80, "cwr"),
    (0x100, "ae"),
];

/// `TCPCB_*`.
const SACKED: [(u32, &str); 5] = [
    (0x1, "sacked"),
    (0x2, "retransmitted"),
    (0x4, "lost"),
    (0x10, "repaired"),
    (0x80, "ever_retransmitted"),
];
