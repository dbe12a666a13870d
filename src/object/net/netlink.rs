// SPDX-License-Identifier: GPL-2.0

//! Netlink sockets.

use crate::bindings;
use crate::object::net::{
    socket::{Kind, SockGuard},
    state::{Own, State},
};

/// The ports of a netlink socket, 0 where there is none.
#[derive(Clone, Copy)]
pub(crate) struct Netlink {
    pub(crate) port: u32,
    pub(crate) peer: u32,
}

/// A netlink socket whose spinlock is held, and that no process owns.
///
/// # Invariants
///
/// The guard's socket is a `netlink_sock`.
pub(crate) struct NetlinkGuard<'g>(&'g SockGuard<'g>);

impl SockGuard<'_> {
    /// Returns it as a netlink socket, if it is one.
    pub(crate) fn netlink(&self) -> Option<NetlinkGuard<'_>> {
        // INVARIANT: By its family.
        (self.socket().kind() == Kind::Netlink).then_some(NetlinkGuard(self))
    }
}

impl NetlinkGuard<'_> {
    /// Reads the socket.
    pub(super) fn read(&self, to: &mut State) {
        let socket = self.0.socket();
        socket.read_common(&mut to.common);
        to.queued.receive(&self.0.receive_totals());
        // SAFETY: It is a valid netlink_sock by the type's invariant.
        to.own = unsafe {
            Own::Netlink(Netlink {
                port: bindings::netlink_portid(socket.as_ptr()),
                peer: bindings::netlink_dst_portid(socket.as_ptr()),
            })
        };
    }
}
