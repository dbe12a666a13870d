// SPDX-License-Identifier: GPL-2.0

//! A packet at a point of its way, in the words of the reports `skbs` and `sockets`.

use super::net::write_reason;
use crate::object::trace::event::{packet_flag, point};
use crate::{
    object::{trace::event::Packet, trace::names::NAME_MAX},
    report::{
        net::sockets::words::{write_inet, write_ip, write_protocol},
        text::Line,
    },
};

fn write_point<'t>(line: Line<'t>, packet: &Packet) -> Line<'t> {
    let name: &[u8] = match packet.point {
        point::OUTPUT => b"output",
        point::QUEUE => b"queue",
        point::TRANSMIT => b"transmit",
        point::GRO => b"gro",
        point::RECEIVE => b"receive",
        point::IP => b"ip",
        point::TRANSPORT => b"transport",
        point::COPY => b"copy",
        point::CONSUME => b"consume",
        point::DROP => b"drop",
        _ => b"free",
    };
    line.word("point", name)
}

fn write_end<'t>(
    line: Line<'t>,
    key: &'static str,
    packet: &Packet,
    end: &[u8; 16],
    port: u16,
) -> Line<'t> {
    if !packet.has(packet_flag::ADDRESS) {
        return line.string(key, b"");
    }
    match packet.has(packet_flag::PORTS) {
        true => write_inet(line, key, packet.family, end, port),
        false => write_ip(line, key, packet.family, end),
    }
}

/// The kernel's sentinel is distinguished from what was set to it by nobody: a header at 0 would leave no
/// room for any before it.
fn write_header<'t>(line: Line<'t>, key: &'static str, raw: u16) -> Line<'t> {
    line.offset(key, raw, raw != u16::MAX && raw != 0)
}

pub(super) fn write<'t>(line: Line<'t>, packet: &Packet) -> Line<'t> {
    let mut name = [0; NAME_MAX];
    let line = write_point(line, packet)
        .id("skb", packet.skb_id())
        .id("head", packet.head_id())
        .id("id", packet.sock_id())
        .number("inode", packet.inode)
        .number("netns", packet.netns.into())
        .number("device", packet.device.into());
    let line = match packet.point {
        point::DROP => write_reason(line, packet.reason, packet.drop_reason(&mut name)),
        _ => line.word("reason", b"none"),
    };
    let line = line
        .string("location", packet.location(&mut name))
        .hex16("protocol", packet.ethertype);
    let line = match packet.has(packet_flag::ADDRESS) {
        true => write_protocol(line, "carries", packet.family, packet.protocol.into()),
        false => line.word("carries", b"none"),
    };
    let line = write_end(line, "from", packet, &packet.from, packet.from_port);
    let line = write_end(line, "to", packet, &packet.to, packet.to_port)
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
    let line = write_header(line, "network", packet.network);
    let line = write_header(line, "transport", packet.transport);
    let line = write_header(line, "inner_mac", packet.inner_mac);
    let line = write_header(line, "inner_network", packet.inner_network);
    write_header(line, "inner_transport", packet.inner_transport)
        .flag("cloned", packet.has(packet_flag::CLONED))
        .flag("shared", packet.has(packet_flag::SHARED))
        .flag("fragment", packet.has(packet_flag::FRAGMENT))
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
