// SPDX-License-Identifier: GPL-2.0

//! MPTCP sockets. What a listener listens with is its first subflow, a TCP socket that no file
//! leads to.

use crate::bindings;
use crate::object::net::{
    accept::Child,
    socket::{Kind, SockGuard, Socket},
    state::State,
};
use core::ptr::NonNull;
use kernel::prelude::*;

impl SockGuard<'_> {
    /// Takes a reference to the first subflow, if it is an MPTCP socket that has one.
    pub(super) fn first_subflow(&self) -> Option<Child> {
        if self.socket().kind() != Kind::Mptcp {
            return None;
        }
        // SAFETY: It is a valid mptcp_sock by its kind. The first subflow is set and cleared by the
        // socket's owner, and there is none; until it is cleared, the connection holds a reference
        // to it.
        let first = NonNull::new(unsafe { bindings::mptcp_first(self.socket().as_ptr()) })?;
        // SAFETY: The subflow is valid, as above.
        Some(unsafe { Child::hold(first) })
    }
}

impl Socket<'_> {
    /// Completes the state of an MPTCP listener by that of its first subflow, read in one hold of
    /// its own lock: its accept queue and backlog.
    pub(super) fn read_subflow(&self, state: &mut State) -> Result {
        // The lock is dropped before the subflow's is taken.
        let first = self.lock()?.first_subflow();
        let Some(first) = first else {
            return Ok(());
        };
        let subflow = first.socket().lock()?;
        if let Some(tcp) = subflow.tcp() {
            let mut of = State::default();
            tcp.read(&mut of);
            state.queued.rx_packets = of.queued.rx_packets;
            state.common.backlog = of.common.backlog;
            state.common.drops = state.common.drops.wrapping_add(of.common.drops);
        }
        Ok(())
    }
}
