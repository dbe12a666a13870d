// SPDX-License-Identifier: GPL-2.0

//! The records `queue`, `skb`, `frag`, `part` and `header`.

#![deny(unsafe_code)]

use super::{Packet, QueueName, Room, Seen};
use crate::{
    bindings,
    object::skb::{Frag, SkbState},
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

pub(super) fn tell_queue(text: &mut Text, fd: u32, queue: &Seen) -> Result {
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

/// Tells an sk_buff, and what belongs to it.
pub(super) fn tell_skb(
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
        .flag("cloned", state.cloned != 0)
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
        .words("flags", names(state.flags, &FLAGS))
        .number("frags", state.nr_frags.into())
        .flag("frag_list", state.frag_list != 0)
        .word("pkt_type", packet_type(state.pkt_type));
    line = tell_checksum(line, state)
        .number("priority", state.priority.into())
        .hex("mark", state.mark as usize)
        .hex("hash", state.hash as usize)
        .number("iif", u64::from(state.iif.max(0) as u32));
    let len = skb.device.iter().position(|byte| *byte == 0);
    if let Some(len) = len.filter(|len| *len > 0) {
        line = line.string("dev", &skb.device[..len]);
    }
    line = tell_where_there(line, state);
    tell_control_block(line, state).end()?;
    for (at, frag) in pieces(room, &skb.frags).enumerate() {
        begin(text, "frag", fd, queue, pos)
            .number("index", at as u64)
            .id("page", frag.id())
            .number("offset", frag.offset.into())
            .number("size", frag.size.into())
            .end()?;
    }
    for (at, part) in pieces(room, &skb.parts).enumerate() {
        begin(text, "part", fd, queue, pos)
            .number("index", at as u64)
            .id("id", part.id())
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

fn tell_checksum<'t>(line: Line<'t>, state: &SkbState) -> Line<'t> {
    let line = line
        .word(
            "ip_summed",
            match state.ip_summed {
                1 => b"unnecessary",
                2 => b"complete",
                3 => b"partial",
                _ => b"none",
            },
        )
        .number("csum_level", state.csum_level.into());
    match state.ip_summed {
        2 => line.hex("csum", state.csum as usize),
        3 => line
            .number("csum_start", state.csum_start.into())
            .number("csum_offset", state.csum_offset.into()),
        _ => line,
    }
}

/// What most sk_buffs have not.
fn tell_where_there<'t>(mut line: Line<'t>, state: &SkbState) -> Line<'t> {
    if state.tstamp != 0 {
        line = line
            .number("tstamp", state.tstamp)
            .word(
                "clock",
                match state.clock {
                    0 => b"realtime",
                    1 => b"monotonic",
                    2 => b"tai",
                    _ => b"unknown",
                },
            )
            .signed("age_ns", state.age_ns);
    }
    if state.has_vlan != 0 {
        line = line
            .hex16("vlan_proto", state.vlan_proto)
            .hex16("vlan_tci", state.vlan_tci);
    }
    if state.gso_size != 0 || state.gso_type != 0 {
        line = line
            .number("gso_size", state.gso_size.into())
            .number("gso_segs", state.gso_segs.into())
            .words("gso_type", names(state.gso_type, &GSO));
    }
    if state.inner_protocol != 0 {
        line = if state.inner_is_ip != 0 {
            line.number("inner_ipproto", state.inner_protocol.into())
        } else {
            line.hex16("inner_protocol", state.inner_protocol)
        };
    }
    line
}

/// What the queue's owner keeps with the sk_buff.
fn tell_control_block<'t>(line: Line<'t>, state: &SkbState) -> Line<'t> {
    match u32::from(state.cb) {
        bindings::RAVEL_CB_TCP_IN | bindings::RAVEL_CB_TCP_OUT => {
            let mut line = line
                .number("seq", state.seq.into())
                .number("end_seq", state.end_seq.into())
                .words("tcp_flags", names(state.tcp_flags.into(), &TCP));
            if u32::from(state.cb) == bindings::RAVEL_CB_TCP_IN {
                line = line.number("ack_seq", state.ack_seq.into());
            } else {
                line = line.words("sacked", names(state.sacked.into(), &SACKED));
            }
            line
        }
        bindings::RAVEL_CB_UNIX => line
            .number("consumed", state.consumed.into())
            .number("fds", state.fds.into()),
        bindings::RAVEL_CB_ERROR => line
            .number("ee_errno", state.ee_errno.into())
            .number("ee_origin", state.ee_origin.into())
            .number("ee_type", state.ee_type.into())
            .number("ee_code", state.ee_code.into())
            .number("ee_info", state.ee_info.into())
            .number("ee_data", state.ee_data.into()),
        _ => line,
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

const FLAGS: [(u32, &str); 12] = [
    (bindings::RAVEL_SKB_NOHDR, "nohdr"),
    (bindings::RAVEL_SKB_PEEKED, "peeked"),
    (bindings::RAVEL_SKB_HEAD_FRAG, "head_frag"),
    (bindings::RAVEL_SKB_PFMEMALLOC, "pfmemalloc"),
    (bindings::RAVEL_SKB_RECYCLE, "recycle"),
    (bindings::RAVEL_SKB_ENCAPSULATION, "encapsulation"),
    (bindings::RAVEL_SKB_L4_HASH, "l4_hash"),
    (bindings::RAVEL_SKB_SW_HASH, "sw_hash"),
    (bindings::RAVEL_SKB_CSUM_VALID, "csum_valid"),
    (bindings::RAVEL_SKB_UNREADABLE, "unreadable"),
    (bindings::RAVEL_SKB_IGNORE_DF, "ignore_df"),
    (bindings::RAVEL_SKB_SLOW_GRO, "slow_gro"),
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
