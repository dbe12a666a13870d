// SPDX-License-Identifier: GPL-2.0

//! A packet at a point of its way, in the words of the reports `skbs` and `sockets`.

use super::net::tell_reason;
use crate::{
    bindings,
    object::{netevent::NAME_MAX, ring::Packet},
    report::{
        sockets::words::{tell_inet, tell_ip, tell_protocol},
        text::Line,
    },
};

fn tell_point<'t>(line: Line<'t>, packet: &Packet) -> Line<'t> {
    let name: &[u8] = match u32::from(packet.point) {
        bindings::RAVEL_POINT_OUTPUT => b"output",
        bindings::RAVEL_POINT_QUEUE => b"queue",
        bindings::RAVEL_POINT_TRANSMIT => b"transmit",
        bindings::RAVEL_POINT_GRO => b"gro",
        bindings::RAVEL_POINT_RECEIVE => b"receive",
        bindings::RAVEL_POINT_IP => b"ip",
        bindings::RAVEL_POINT_TRANSPORT => b"transport",
        bindings::RAVEL_POINT_COPY => b"copy",
        bindings::RAVEL_POINT_CONSUME => b"consume",
        bindings::RAVEL_POINT_DROP => b"drop",
        _ => b"free",
    };
    line.word("point", name)
}

fn tell_end<'t>(
    line: Line<'t>,
    key: &'static str,
    packet: &Packet,
    end: &[u8; 16],
    port: u16,
) -> Line<'t> {
    if !packet.has(bindings::RAVEL_PACKET_ADDRESS) {
        return line.string(key, b"");
    }
    match packet.has(bindings::RAVEL_PACKET_PORTS) {
        true => tell_inet(line, key, packet.family, end, port),
        false => tell_ip(line, key, packet.family, end),
    }
}

/// The kernel's sentinel is told from what was set to it by nobody: a header at 0 would leave no room for any before it.
fn tell_header<'t>(line: Line<'t>, key: &'static str, raw: u16) -> Line<'t> {
    line.offset(key, raw, raw != u16::MAX && raw != 0)
}

pub(super) fn tell<'t>(line: Line<'t>, packet: &Packet) -> Line<'t> {
    let mut name = [0; NAME_MAX];
    let line = tell_point(line, packet)
        .id("skb", packet.skb_id())
        .id("head", packet.head_id())
        .id("id", packet.sock_id())
        .number("inode", packet.inode)
        .number("netns", packet.netns.into())
        .number("device", packet.device.into());
    let line = match u32::from(packet.point) {
        bindings::RAVEL_POINT_DROP => {
            tell_reason(line, packet.reason, packet.drop_reason(&mut name))
        }
        _ => line.word("reason", b"none"),
    };
    let line = line
        .string("location", packet.location(&mut name))
        .hex16("protocol", packet.ethertype);
    let line = match packet.has(bindings::RAVEL_PACKET_ADDRESS) {
        true => tell_protocol(line, "carries", packet.family, packet.protocol.into()),
        false => line.word("carries", b"none"),
    };
    let line = tell_end(line, "from", packet, &packet.from, packet.from_port);
    let line = tell_end(line, "to", packet, &packet.to, packet.to_port)
        .number("sequence", packet.sequence.into())
        .number("len", packet.len.into())
        .number("data_len", packet.data_len.into())
        .number("truesize", packet.truesize.into())
        .number("copied", packet.copied.into())
        .number("gso_size", packet.gso_size.into())
        .number("gso_segs", packet.gso_segs.into())
        .number("data", packet.data.into())
        .number("tail", packet.tail.into())
        .number("end", packet.end.into())
        .offset("mac", packet.mac, packet.mac != u16::MAX);
    let line = tell_header(line, "network", packet.network);
    let line = tell_header(line, "transport", packet.transport);
    let line = tell_header(line, "inner_mac", packet.inner_mac);
    let line = tell_header(line, "inner_network", packet.inner_network);
    tell_header(line, "inner_transport", packet.inner_transport)
        .flag("cloned", packet.has(bindings::RAVEL_PACKET_CLONED))
        .flag("shared", packet.has(bindings::RAVEL_PACKET_SHARED))
        .flag("fragment", packet.has(bindings::RAVEL_PACKET_FRAGMENT))
        .word("fclone", fclone(packet.fclone))
}

/// Whether it was made together with room for a clone, or is that clone.
fn fclone(raw: u8) -> &'static [u8] {
    // include/linux/skbuff.h
    match raw {
        0 => b"none",
        1 => b"original",
        _ => b"clone",
    }
}
