// SPDX-License-Identifier: GPL-2.0

//! The words that sockets are told in, in reports and in events.

#![deny(unsafe_code)]

use crate::{bindings, report::text::Line};
use core::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use kernel::{fmt::Write, str::Formatter};

/// Its address family.
pub(crate) fn tell_family(line: Line<'_>, family: u16) -> Line<'_> {
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
pub(crate) fn tell_protocol<'t>(
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
pub(crate) fn tell_sk_state<'t>(line: Line<'t>, key: &'static str, state: u8) -> Line<'t> {
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
pub(crate) fn tell_shutdown<'t>(line: Line<'t>, key: &'static str, shutdown: u8) -> Line<'t> {
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

/// An address; an IPv4 one is in the first four bytes.
fn address(family: u16, address: &[u8; 16]) -> IpAddr {
    if u32::from(family) == bindings::AF_INET {
        let [a, b, c, d, ..] = *address;
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from(*address).into()
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

fn tell_display<'t>(line: Line<'t>, key: &'static str, what: impl Display) -> Line<'t> {
    line.string(key, display(what, &mut [0; 64]))
}

/// An address and a port.
pub(crate) fn tell_inet<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    bytes: &[u8; 16],
    port: u16,
) -> Line<'t> {
    tell_display(line, key, SocketAddr::new(address(family, bytes), port))
}

/// An address where there are no ports.
pub(crate) fn tell_ip<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    bytes: &[u8; 16],
) -> Line<'t> {
    tell_display(line, key, address(family, bytes))
}
