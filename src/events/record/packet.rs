// SPDX-License-Identifier: GPL-2.0

//! A packet at a point of its way, in the words of the reports `skbs` and `sockets`.

use super::net::reason;
use crate::object::trace::event::{packet_flag, point};
use crate::{
    object::{trace::event::Packet, trace::names::NAME_MAX},
    records::{
        events::{self, Place, Point, TcpHeader},
        skbs::{Fclone, TcpFlags},
        sockets::Protocol,
        Address, Comm, Offset, Reason, Str,
    },
    report::{
        net::sockets::words::{address, is_inet},
        text::Text,
    },
};
use kernel::prelude::*;

fn end(packet: &Packet, end: &[u8; 16], port: u16) -> Address {
    match packet.has(packet_flag::ADDRESS) {
        true => address(
            packet.family,
            end,
            packet.has(packet_flag::PORTS).then_some(port),
        ),
        false => Address::default(),
    }
}

/// The kernel's sentinel is distinguished from what was set to it by nobody: a header at 0 would leave no
/// room for any before it.
fn header(raw: u16) -> Offset {
    Offset::of(raw, raw != u16::MAX && raw != 0)
}

#[inline(never)]
pub(super) fn write(place: Place, packet: &Packet, text: &mut Text) -> Result {
    let (mut name, mut symbol) = ([0; NAME_MAX], [0; NAME_MAX]);
    let name = match packet.point {
        point::DROP => packet.drop_reason(&mut name),
        _ => b"",
    };
    put(place, packet, [name, packet.location(&mut symbol)], text)
}

/// Writes it, with its reason and its location.
// Not in the frame of the names.
#[inline(never)]
fn put(place: Place, packet: &Packet, names: [&[u8]; 2], text: &mut Text) -> Result {
    let [name, location] = names;
    let reason = match packet.point {
        point::DROP => reason(packet.reason, name),
        _ => Reason::NONE,
    };
    let record = events::Packet {
        place,
        point: Point::new(packet.point.min(point::FREE).into()),
        skb: packet.skb_id().into(),
        head: packet.head_id().into(),
        id: packet.sock_id().into(),
        inode: packet.inode.into(),
        netns: packet.netns.into(),
        device: packet.device.into(),
        reason,
        location: Str::at(name.len(), location.len()),
        protocol: packet.ethertype.into(),
        carries: match packet.has(packet_flag::ADDRESS) {
            true => Protocol::of(is_inet(packet.family), packet.protocol.into()),
            false => Protocol::NONE,
        },
        from: end(packet, &packet.from, packet.from_port),
        to: end(packet, &packet.to, packet.to_port),
        sequence: packet.sequence.into(),
        len: packet.len.into(),
        data_len: packet.data_len.into(),
        truesize: packet.truesize.into(),
        copied: packet.copied.into(),
        gso_size: packet.gso_size.into(),
        gso_segs: packet.gso_segs.into(),
        data: packet.data.into(),
        tail: packet.tail.into(),
        end: packet.end.into(),
        mac: Offset::of(packet.mac, packet.mac != u16::MAX),
        network: header(packet.network),
        transport: header(packet.transport),
        inner_mac: header(packet.inner_mac),
        inner_network: header(packet.inner_network),
        inner_transport: header(packet.inner_transport),
        cloned: packet.has(packet_flag::CLONED).into(),
        shared: packet.has(packet_flag::SHARED).into(),
        fragment: packet.has(packet_flag::FRAGMENT).into(),
        // include/linux/skbuff.h
        fclone: Fclone::new(packet.fclone.min(2).into()),
        dev: (packet.name[0] != 0).then(|| Comm::new(packet.name)).into(),
        tcp: packet
            .has(packet_flag::TCP)
            .then(|| TcpHeader {
                tcp_flags: TcpFlags::new(packet.tcp_flags.into()),
                ack: packet.acknowledgement.into(),
                window: packet.window.into(),
            })
            .into(),
    };
    text.put(&record, &names)
}
