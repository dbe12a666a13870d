// SPDX-License-Identifier: GPL-2.0

//! Sockets between virtual machines and their host.
//!
//! C header: [`include/net/af_vsock.h`](srctree/include/net/af_vsock.h)

use crate::bindings;
use crate::object::net::{
    socket::{Kind, SockGuard},
    state::{Own, State},
};
use core::ptr::NonNull;

/// A context and a port.
#[derive(Clone, Copy)]
pub(crate) struct VsockAddress {
    /// None for any context.
    pub(crate) cid: Option<u32>,
    pub(crate) port: u32,
}

/// The addresses of a vsock socket, none where it has none.
#[derive(Clone, Copy)]
pub(crate) struct Vsock {
    pub(crate) local: Option<VsockAddress>,
    pub(crate) remote: Option<VsockAddress>,
}

/// A vsock socket whose spinlock is held, and that no process owns.
///
/// # Invariants
///
/// The guard's socket is a `vsock_sock`.
pub(crate) struct VsockGuard<'g> {
    guard: &'g SockGuard<'g>,
    sk: NonNull<bindings::vsock_sock>,
}

impl SockGuard<'_> {
    /// Returns it as a vsock socket, if it is one.
    pub(crate) fn vsock(&self) -> Option<VsockGuard<'_>> {
        // INVARIANT: By its family.
        (self.socket().kind() == Kind::Vsock).then(|| VsockGuard {
            guard: self,
            sk: self.socket().as_non_null().cast(),
        })
    }
}

impl VsockGuard<'_> {
    /// Reads the socket.
    pub(super) fn read(&self, to: &mut State) {
        self.guard.socket().read_common(&mut to.common);
        to.queued.receive(&self.guard.receive_totals());
        let vsock = self.sk.as_ptr();
        // VMADDR_CID_ANY and VMADDR_PORT_ANY.
        let address = |vm: bindings::sockaddr_vm| {
            (vm.svm_port != u32::MAX).then_some(VsockAddress {
                cid: (vm.svm_cid != u32::MAX).then_some(vm.svm_cid),
                port: vm.svm_port,
            })
        };
        // SAFETY: It is a valid vsock_sock by the type's invariant, and its lock is held.
        let (local, remote) = unsafe {
            (
                address((&raw const (*vsock).local_addr).read_volatile()),
                address((&raw const (*vsock).remote_addr).read_volatile()),
            )
        };
        to.own = Own::Vsock(Vsock { local, remote });
    }
}
