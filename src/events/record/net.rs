// SPDX-License-Identifier: GPL-2.0

//! Events of the network, in the words of the report `sockets`.

use crate::object::trace::event::net_flag;
use crate::{
    object::{trace::event::NetPart, trace::names::NAME_MAX},
    records::{
        events::{self, How, Place, Queues, Sock, Way, Who},
        sockets::{Family, Protocol, SkState},
        Address, Reason, Str,
    },
    report::{
        net::sockets::words::{address, is_inet, shutdown},
        text::Text,
    },
};
use kernel::prelude::*;

/// One end of a connection, or of a packet's way.
fn end(net: &NetPart, end: &[u8; 16], port: u16) -> Address {
    match net.has(net_flag::ADDRESS) {
        true => address(net.family, end, net.has(net_flag::PORTS).then_some(port)),
        false => Address::default(),
    }
}

fn sock(net: &NetPart) -> Sock {
    Sock {
        id: net.id().into(),
        inode: net.inode.into(),
        netns: net.netns.into(),
        family: Family::new(net.family.into()),
        protocol: Protocol::of(is_inet(net.family), net.protocol),
        local: end(net, &net.local, net.local_port),
        remote: match net.remote_port {
            // As in `sockets`: who is not connected has none.
            0 => Address::default(),
            port => end(net, &net.remote, port),
        },
    }
}

/// Why something happened: by a name, or by a number where there is none. The name is the first of the strings.
pub(super) fn reason(number: u32, name: &[u8]) -> Reason {
    match name.len() {
        0 => Reason::number(number),
        len => Reason::at(0, len),
    }
}

#[inline(never)]
pub(super) fn write_state(place: Place, net: &NetPart, text: &mut Text) -> Result {
    let record = events::TcpState {
        place,
        sock: sock(net),
        old: SkState::new(net.old_state.into()),
        new: SkState::new(net.state.into()),
    };
    text.put(&record, &[])
}

#[inline(never)]
pub(super) fn write_reset(place: Place, net: &NetPart, text: &mut Text) -> Result {
    let mut name: &[u8] = b"";
    let (way, reason) = match net.has(net_flag::SENT) {
        true => {
            name = net.reset_reason();
            (Way::SENT, reason(net.reason, name))
        }
        false => (Way::RECEIVED, Reason::NONE),
    };
    let record = events::Reset {
        place,
        sock: sock(net),
        sk_state: match net.state {
            0 => SkState::NONE,
            state => SkState::new(state.into()),
        },
        way,
        reason,
    };
    text.put(&record, &[name])
}

#[inline(never)]
pub(super) fn write_drop(place: Place, net: &NetPart, text: &mut Text) -> Result {
    let (mut name, mut symbol) = ([0; NAME_MAX], [0; NAME_MAX]);
    let names = [net.drop_reason(&mut name), net.location(&mut symbol)];
    put_drop(place, net, names, text)
}

/// Writes it, with its reason and its location.
// Not in the frame of the names.
#[inline(never)]
fn put_drop(place: Place, net: &NetPart, names: [&[u8]; 2], text: &mut Text) -> Result {
    let [name, location] = names;
    let record = events::Drop {
        place,
        id: net.id().into(),
        inode: net.inode.into(),
        netns: net.netns.into(),
        reason: reason(net.reason, name),
        location: Str::at(name.len(), location.len()),
        protocol: net.ethertype.into(),
        len: net.len.into(),
        iif: net.iif.into(),
        transport: match net.has(net_flag::ADDRESS) {
            true => Protocol::of(is_inet(net.family), net.protocol),
            false => Protocol::NONE,
        },
        from: end(net, &net.local, net.local_port),
        to: end(net, &net.remote, net.remote_port),
    };
    text.put(&record, &names)
}

/// What is queued, and which directions are shut.
fn queues(net: &NetPart) -> Queues {
    Queues {
        sk_state: SkState::new(net.state.into()),
        shutdown: shutdown(net.shutdown),
        rx_bytes: net.rx_bytes.into(),
        rx_packets: net.rx_packets.into(),
        tx_bytes: net.tx_bytes.into(),
        unsent: net.unsent.into(),
        wmem: net.wmem.into(),
    }
}

#[inline(never)]
pub(super) fn write_shutdown(place: Place, who: Who, net: &NetPart, text: &mut Text) -> Result {
    let record = events::ShutdownCall {
        place,
        who,
        how: How::new(net.how.into()),
        sock: sock(net),
        queues: queues(net),
    };
    text.put(&record, &[])
}

#[inline(never)]
pub(super) fn write_close(place: Place, who: Who, net: &NetPart, text: &mut Text) -> Result {
    let record = events::Close {
        place,
        who,
        exiting: net.has(net_flag::EXITING).into(),
        refs: net.refs.into(),
        sock: sock(net),
        queues: queues(net),
    };
    text.put(&record, &[])
}

#[inline(never)]
pub(super) fn write_release(place: Place, who: Who, net: &NetPart, text: &mut Text) -> Result {
    let record = events::Release {
        place,
        who,
        sock: sock(net),
        queues: queues(net),
    };
    text.put(&record, &[])
}
