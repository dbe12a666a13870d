// SPDX-License-Identifier: GPL-2.0

//! Values of sockets as records have them, in reports and in events.

#![deny(unsafe_code)]

use crate::{
    bindings,
    records::{sockets::Shutdown, Address},
};

/// Whether protocols of that family have names.
pub(crate) fn is_inet(family: u16) -> bool {
    let family = u32::from(family);
    family == bindings::AF_INET || family == bindings::AF_INET6
}

/// The directions that are shut.
pub(crate) fn shutdown(shutdown: u8) -> Shutdown {
    Shutdown::new(shutdown.min(3).into())
}

/// An address, an IPv4 one in the first four bytes, and a port where there are ports.
pub(crate) fn address(family: u16, bytes: &[u8; 16], port: Option<u16>) -> Address {
    match u32::from(family) {
        bindings::AF_INET => Address::ipv4(bytes, port),
        _ => Address::ipv6(bytes, port),
    }
}
