// SPDX-License-Identifier: GPL-2.0

//! Events of the network, in the words of the report `sockets`.

use crate::object::trace::event::net_flag;
use crate::{
    object::{trace::event::NetPart, trace::names::NAME_MAX},
    report::{
        net::sockets::words::{
            self, write_family, write_inet, write_ip, write_protocol, write_sk_state,
        },
        text::Line,
    },
};

fn write_id<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    line.id("id", net.id())
        .number("inode", net.inode)
        .number("netns", net.netns.into())
}

/// One end of a connection, or of a packet's way.
fn write_end<'t>(
    line: Line<'t>,
    key: &'static str,
    net: &NetPart,
    end: &[u8; 16],
    port: u16,
) -> Line<'t> {
    if !net.has(net_flag::ADDRESS) {
        return line.string(key, b"");
    }
    match net.has(net_flag::PORTS) {
        true => write_inet(line, key, net.family, end, port),
        false => write_ip(line, key, net.family, end),
    }
}

fn write_ends<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let line = write_end(line, "local", net, &net.local, net.local_port);
    // As in `sockets`: who is not connected has none.
    if net.remote_port == 0 {
        return line.string("remote", b"");
    }
    write_end(line, "remote", net, &net.remote, net.remote_port)
}

fn write_sock<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let line = write_family(write_id(line, net), net.family);
    let line = write_protocol(line, "protocol", net.family, net.protocol);
    write_ends(line, net)
}

pub(super) fn write_reason<'t>(line: Line<'t>, reason: u32, name: &[u8]) -> Line<'t> {
    if name.is_empty() {
        line.numbered("reason", "reason_", reason.into())
    } else {
        line.word("reason", name)
    }
}

pub(super) fn write_state<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let line = write_sk_state(write_sock(line, net), "old", net.old_state);
    write_sk_state(line, "new", net.state)
}

pub(super) fn write_reset<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let line = match net.state {
        0 => write_sock(line, net).word("sk_state", b"none"),
        state => write_sk_state(write_sock(line, net), "sk_state", state),
    };
    if net.has(net_flag::SENT) {
        write_reason(line.word("way", b"sent"), net.reason, net.reset_reason())
    } else {
        line.word("way", b"received").word("reason", b"none")
    }
}

pub(super) fn write_drop<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let mut name = [0; NAME_MAX];
    let line = write_reason(write_id(line, net), net.reason, net.drop_reason(&mut name))
        .string("location", net.location(&mut name))
        .hex16("protocol", net.ethertype)
        .number("len", net.len.into())
        .number("iif", net.iif.into());
    let line = match net.has(net_flag::ADDRESS) {
        true => write_protocol(line, "transport", net.family, net.protocol),
        false => line.word("transport", b"none"),
    };
    let line = write_end(line, "from", net, &net.local, net.local_port);
    write_end(line, "to", net, &net.remote, net.remote_port)
}

/// What is queued, and which directions are shut.
fn write_queues<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let line = write_sk_state(write_sock(line, net), "sk_state", net.state);
    words::write_shutdown(line, "shutdown", net.shutdown)
        .number("rx_bytes", net.rx_bytes.into())
        .number("rx_packets", net.rx_packets.into())
        .number("tx_bytes", net.tx_bytes.into())
        .number("unsent", net.unsent.into())
        .number("wmem", net.wmem.into())
}

pub(super) fn write_shutdown<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    // include/uapi/linux/net.h
    const NAMES: [&[u8]; 3] = [b"RD", b"WR", b"RDWR"];
    let line = match NAMES.get(usize::from(net.how)) {
        Some(name) => line.word("how", name),
        None => line.numbered("how", "how_", net.how.into()),
    };
    write_queues(line, net)
}

pub(super) fn write_close<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    let line = line
        .flag("exiting", net.has(net_flag::EXITING))
        .number("refs", net.refs.into());
    write_queues(line, net)
}

pub(super) fn write_release<'t>(line: Line<'t>, net: &NetPart) -> Line<'t> {
    write_queues(line, net)
}
