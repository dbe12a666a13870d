// SPDX-License-Identifier: GPL-2.0

//! Which sockets a stream is about. Probes compare with this; what it names is kept, so that no other comes in
//! its place.

use super::{id::Id, process::Process, socket::OpenFile};
use crate::bindings;
use core::{net::IpAddr, ptr::NonNull};
use kernel::prelude::*;

/// What it is made from; what is none lets all pass.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// A process' descriptor.
    pub(crate) socket: Option<(i32, u32)>,
    /// Id of a cgroup.
    pub(crate) cgroup: Option<u64>,
    /// An address of either end.
    pub(crate) address: Option<IpAddr>,
    /// A port of either end.
    pub(crate) port: Option<u16>,
    /// What IP carries.
    pub(crate) protocol: Option<u8>,
}

impl Wanted {
    /// Whether it says of a socket or a packet what a process does not have.
    pub(crate) fn names_socket(&self) -> bool {
        self.socket.is_some()
            || self.address.is_some()
            || self.port.is_some()
            || self.protocol.is_some()
    }
}

/// A filter.
///
/// # Invariants
///
/// References to `sock` and to `cgroup` are owned, unless they are null.
#[repr(transparent)]
pub(crate) struct NetFilter {
    raw: bindings::ravel_net_filter,
}

// SAFETY: What it refers to may be compared with, read, and let go of from any thread.
unsafe impl Send for NetFilter {}
// SAFETY: As above.
unsafe impl Sync for NetFilter {}

impl NetFilter {
    /// Finds what is wanted.
    ///
    /// `ESRCH` where there is no such process, `EBADF` no such descriptor, `ENOTSOCK` it is no socket, `ENOENT` no
    /// such cgroup, `EOPNOTSUPP` sockets have none in this kernel.
    pub(crate) fn new(wanted: &Wanted) -> Result<Self> {
        // INVARIANT: Both are null.
        let mut filter = Self {
            raw: bindings::ravel_net_filter::default(),
        };
        if let Some((pid, fd)) = wanted.socket {
            filter.raw.sock = hold_socket(pid, fd)?.as_ptr();
        }
        if let Some(id) = wanted.cgroup {
            filter.raw.cgroup = get_cgroup(id)?.as_ptr();
        }
        if let Some(address) = wanted.address {
            filter.raw.has_address = true;
            filter.raw.address = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
        }
        filter.raw.port = wanted.port.unwrap_or(0).to_be();
        filter.raw.protocol = wanted.protocol.unwrap_or(0);
        Ok(filter)
    }

    /// What probes compare with, for as long as this lives.
    pub(super) fn raw(&self) -> bindings::ravel_net_filter {
        self.raw
    }

    /// The socket's id.
    pub(crate) fn socket(&self) -> Id {
        Id::of(self.raw.sock)
    }

    /// The cgroup's id, or 0.
    pub(crate) fn cgroup(&self) -> u64 {
        if self.raw.cgroup.is_null() {
            return 0;
        }
        // SAFETY: By the type's invariant.
        unsafe { bindings::ravel_cgroup_id(self.raw.cgroup) }
    }
}

impl Drop for NetFilter {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; this is their end, in a process.
        unsafe {
            if !self.raw.sock.is_null() {
                bindings::ravel_sock_put(self.raw.sock);
            }
            if !self.raw.cgroup.is_null() {
                bindings::ravel_cgroup_put(self.raw.cgroup);
            }
        }
    }
}

/// A reference to the socket behind a process' descriptor. It keeps the socket's memory, not its connection.
fn hold_socket(pid: i32, fd: u32) -> Result<NonNull<bindings::sock>> {
    let process = Process::find(pid)?;
    let thread = process.user_thread().map_err(|_| ESRCH)?;
    let mut found = fd;
    let file = OpenFile::next_of(&thread, &mut found).filter(|_| found == fd);
    let file = file.ok_or(EBADF)?;
    let socket = file.socket().ok_or(ENOTSOCK)?;
    let sk = socket.as_non_null();
    // SAFETY: The file keeps the socket meanwhile.
    unsafe { bindings::ravel_sock_hold(sk.as_ptr()) };
    Ok(sk)
}

fn get_cgroup(id: u64) -> Result<NonNull<bindings::cgroup>> {
    // SAFETY: Looks a number up.
    NonNull::new(unsafe { bindings::ravel_cgroup_get(id) }).ok_or(ENOENT)
}

/// Whether sockets know their cgroup in this kernel.
pub(crate) fn has_sock_cgroups() -> bool {
    // SAFETY: Returns a constant.
    unsafe { bindings::ravel_has_sock_cgroups() }
}
