// SPDX-License-Identifier: GPL-2.0

//! The words for sockets' values, in reports and in events.

#![deny(unsafe_code)]

use crate::{bindings, report::text::Line};
use core::{
    fmt::Display,
    net::{Ipv6Addr, SocketAddrV6},
};
use kernel::{fmt::Write, str::Formatter};

/// Its address family.
pub(crate) fn write_family(line: Line<'_>, family: u16) -> Line<'_> {
    let name: &[u8] = match u32::from(family) {
        bindings::AF_UNIX => b"unix",
        bindings::AF_INET => b"inet",
        bindings::AF_INET6 => b"inet6",
        bindings::AF_NETLINK => b"netlink",
        bindings::AF_PACKET => b"packet",
        bindings::AF_ALG => b"alg",
        bindings::AF_VSOCK => b"vsock",
        bindings::AF_XDP => b"xdp",
        n => return line.numbered("family", "af_", n.into()),
    };
    line.word("family", name)
}

/// The protocol under a key; of an inet socket it has a name.
pub(crate) fn write_protocol<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    protocol: u16,
) -> Line<'t> {
    let family = u32::from(family);
    if family != bindings::AF_INET && family != bindings::AF_INET6 {
        return line.number(key, protocol.into());
    }
    let name: &[u8] = match protocol {
        1 => b"icmp",
        6 => b"tcp",
        17 => b"udp",
        58 => b"icmpv6",
        132 => b"sctp",
        136 => b"udplite",
        255 => b"raw",
        262 => b"mptcp",
        n => return line.number(key, n.into()),
    };
    line.word(key, name)
}

/// A state of the protocol.
pub(crate) fn write_sk_state<'t>(line: Line<'t>, key: &'static str, state: u8) -> Line<'t> {
    // include/net/tcp_states.h
    const NAMES: [&str; 13] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
        "BOUND_INACTIVE",
    ];
    match usize::from(state).checked_sub(1).and_then(|i| NAMES.get(i)) {
        Some(name) => line.word(key, name.as_bytes()),
        None => line.numbered(key, "state_", state.into()),
    }
}

/// Directions that are shut.
pub(crate) fn write_shutdown<'t>(line: Line<'t>, key: &'static str, shutdown: u8) -> Line<'t> {
    line.word(
        key,
        match shutdown {
            0 => b"none",
            1 => b"RD",
            2 => b"WR",
            _ => b"RDWR",
        },
    )
}

/// An IPv4 address, perhaps with a port, as text. Sockets have two each, and to format them would take longer than
/// all else of a socket.
struct Ipv4Text {
    text: [u8; 24],
    len: usize,
}

impl Ipv4Text {
    fn new(address: [u8; 4], port: Option<u16>) -> Self {
        let mut to = Self {
            text: [0; 24],
            len: 0,
        };
        for (at, byte) in address.into_iter().enumerate() {
            if at > 0 {
                to.push(b'.');
            }
            to.number(byte.into());
        }
        if let Some(port) = port {
            to.push(b':');
            to.number(port);
        }
        to
    }

    fn push(&mut self, byte: u8) {
        // The longest, `255.255.255.255:65535`, has 21 bytes.
        if let Some(to) = self.text.get_mut(self.len) {
            *to = byte;
            self.len += 1;
        }
    }

    fn number(&mut self, number: u16) {
        for unit in [10000, 1000, 100, 10] {
            if number >= unit {
                self.push(b'0' + (number / unit % 10) as u8);
            }
        }
        self.push(b'0' + (number % 10) as u8);
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

/// An address, with its port or without, as text.
pub(crate) fn display(what: impl Display, text: &mut [u8; 64]) -> &[u8] {
    let mut to = Formatter::new(text);
    // The longest address with its port has 58 bytes.
    let _ = core::write!(to, "{what}");
    let len = to.bytes_written();
    &text[..len]
}

/// An address, an IPv4 one in the first four bytes, and a port where there are ports.
fn write_address<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    bytes: &[u8; 16],
    port: Option<u16>,
) -> Line<'t> {
    if u32::from(family) == bindings::AF_INET {
        let [a, b, c, d, ..] = *bytes;
        return line.plain_string(key, Ipv4Text::new([a, b, c, d], port).bytes());
    }
    let (address, text) = (Ipv6Addr::from(*bytes), &mut [0; 64]);
    line.string(
        key,
        match port {
            Some(port) => display(SocketAddrV6::new(address, port, 0, 0), text),
            None => display(address, text),
        },
    )
}

/// An address and a port.
pub(crate) fn write_inet<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    bytes: &[u8; 16],
    port: u16,
) -> Line<'t> {
    write_address(line, key, family, bytes, Some(port))
}

/// An address where there are no ports.
pub(crate) fn write_ip<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    bytes: &[u8; 16],
) -> Line<'t> {
    write_address(line, key, family, bytes, None)
}
