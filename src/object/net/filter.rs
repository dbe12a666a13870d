// SPDX-License-Identifier: GPL-2.0

//! Which sockets and packets a stream is about. Probes compare with this; what it names is kept, so
//! that no other gets its address.

use crate::bindings;
use crate::object::{
    compat::ENOTSOCK,
    net::{
        flow::Flow,
        packet_ref::PacketRef,
        sock::{SockRef, IPPROTO_TCP, IPPROTO_UDP},
        socket::OpenFile,
    },
    process::Process,
    sync::id::Id,
};
use core::{
    net::IpAddr,
    ptr::{self, NonNull},
};
use kernel::{error::from_err_ptr, prelude::*};

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
pub(crate) struct NetFilter {
    sock: *mut bindings::sock,
    /// Or one below it.
    cgroup: *mut bindings::cgroup,
    /// Of either end; IPv4's as IPv6 maps it.
    address: [u8; 16],
    /// Likewise, in network order.
    port: u16,
    /// What IP carries.
    protocol: u8,
    has_address: bool,
}

// SAFETY: What it refers to may be compared with, read, and released from any thread.
unsafe impl Send for NetFilter {}
// SAFETY: As above.
unsafe impl Sync for NetFilter {}

impl NetFilter {
    /// Finds what is wanted.
    ///
    /// `ESRCH` where there is no such process, `EBADF` no such descriptor, `ENOTSOCK` it is no
    /// socket, `ENOENT` no such cgroup, `EOPNOTSUPP` sockets have none in this kernel.
    pub(crate) fn new(wanted: &Wanted) -> Result<Self> {
        // INVARIANT: Both are null.
        let mut filter = Self {
            sock: ptr::null_mut(),
            cgroup: ptr::null_mut(),
            address: [0; 16],
            port: wanted.port.unwrap_or(0).to_be(),
            protocol: wanted.protocol.unwrap_or(0),
            has_address: wanted.address.is_some(),
        };
        if let Some((pid, fd)) = wanted.socket {
            filter.sock = hold_socket(pid, fd)?.as_ptr();
        }
        if let Some(id) = wanted.cgroup {
            filter.cgroup = get_cgroup(id)?.as_ptr();
        }
        match wanted.address {
            Some(IpAddr::V4(v4)) => filter.address = v4.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(v6)) => filter.address = v6.octets(),
            None => {}
        }
        Ok(filter)
    }

    /// Returns the socket's id.
    pub(crate) fn socket(&self) -> Id {
        Id::of(self.sock)
    }

    /// Returns the cgroup's id, or 0.
    pub(crate) fn cgroup(&self) -> u64 {
        if self.cgroup.is_null() {
            return 0;
        }
        // SAFETY: By the type's invariant.
        unsafe { bindings::cgroup_id(self.cgroup) }
    }

    /// Returns the cgroup, or null.
    pub(in crate::object) fn cgroup_ptr(&self) -> *mut bindings::cgroup {
        self.cgroup
    }

    /// Returns the socket that it is about.
    #[inline(always)]
    pub(in crate::object) fn sock(&self) -> Option<SockRef<'_>> {
        // SAFETY: By the type's invariant.
        unsafe { SockRef::from_raw(self.sock) }
    }

    /// Returns whether protocol, address and port let a flow pass.
    #[inline]
    pub(in crate::object) fn accepts(&self, flow: &Flow) -> bool {
        if self.protocol != 0 && (flow.family == 0 || flow.protocol != self.protocol) {
            return false;
        }
        let port = u16::from_be(self.port);
        if port != 0 && !(flow.has_ports && (flow.from_port == port || flow.to_port == port)) {
            return false;
        }
        !self.has_address || flow.has_address(&self.address)
    }

    /// Returns whether a socket is of the cgroup. A socket refers to the cgroup in which it was
    /// made.
    #[inline]
    pub(in crate::object) fn accepts_cgroup_of(&self, sk: Option<SockRef<'_>>) -> bool {
        self.cgroup.is_null() || sk.is_some_and(|sk| sk.is_full() && self.is_in_cgroup(sk))
    }

    #[cfg(CONFIG_SOCK_CGROUP_DATA)]
    fn is_in_cgroup(&self, sk: SockRef<'_>) -> bool {
        let its = sk.cgroup();
        // SAFETY: By the type's invariant, and a socket has a reference to its cgroup.
        !its.is_null() && unsafe { bindings::cgroup_is_descendant(its, self.cgroup) }
    }

    #[cfg(not(CONFIG_SOCK_CGROUP_DATA))]
    fn is_in_cgroup(&self, _sk: SockRef<'_>) -> bool {
        false
    }

    /// Returns whether it is sure to let no packet pass that has this header at `network`, which
    /// may be no header at all: most packets are nobody's who watches, and this is what they cost.
    /// `sk` is a socket that is known to be the packet's besides its own.
    ///
    /// Looked at is what nearly all have: IPv4's header without options, and IPv6's without
    /// extension headers, with TCP or UDP behind it. What mostly rejects comes first. Where the
    /// bytes of another protocol look like IP's, it is rejected rightly: it has no port, protocol
    /// or address, and is a socket's only if it belongs to it. That is also why the header's end
    /// may be beyond the linear part.
    #[inline(always)]
    pub(in crate::object) fn rejects(
        &self,
        packet: PacketRef<'_>,
        network: usize,
        sk: *const bindings::sock,
    ) -> bool {
        let Some(ip) = packet.header(network) else {
            return false;
        };
        // SAFETY: 44 bytes can be read.
        unsafe {
            let first = ip.read();
            if first == 0x45 {
                self.rejects_ports(packet, ip.add(20), sk)
                    || self.rejects_protocol(ip.add(9).read())
                    || self.rejects_ipv4(ip)
            } else if first & 0xf0 == 0x60 {
                let next = ip.add(6).read();
                (next == IPPROTO_UDP || next == IPPROTO_TCP)
                    && (self.rejects_ports(packet, ip.add(40), sk)
                        || self.rejects_protocol(next)
                        || self.rejects_ipv6(ip))
            } else {
                false
            }
        }
    }

    /// Returns whether there is a port that one end has to have, and neither has.
    ///
    /// # Safety
    ///
    /// Four bytes can be read at `ports`.
    #[inline(always)]
    unsafe fn rejects_ports(
        &self,
        packet: PacketRef<'_>,
        ports: *const u8,
        sk: *const bindings::sock,
    ) -> bool {
        let ports: *const u16 = ports.cast();
        // SAFETY: By this function's requirements, there are two ports.
        let (from, to) = unsafe { (ports.read_unaligned(), ports.add(1).read_unaligned()) };
        let lacks = |port: u16| port != 0 && from != port && to != port;
        if lacks(self.port) {
            return true;
        }
        // The port of a socket whose packets are asked for, unless the packet is known to be its.
        self.sock().is_some_and(|wanted| {
            packet.sk() != wanted.as_ptr() && sk != wanted.as_ptr() && lacks(wanted.num().to_be())
        })
    }

    #[inline(always)]
    fn rejects_protocol(&self, protocol: u8) -> bool {
        self.protocol != 0 && self.protocol != protocol
    }

    /// # Safety
    ///
    /// 44 bytes can be read at `ip`.
    #[inline(always)]
    unsafe fn rejects_ipv4(&self, ip: *const u8) -> bool {
        let wanted = [
            self.address[12],
            self.address[13],
            self.address[14],
            self.address[15],
        ];
        // SAFETY: By this function's contract.
        let ends = unsafe { ip.add(12).cast::<[[u8; 4]; 2]>().read_unaligned() };
        self.has_address && ends[0] != wanted && ends[1] != wanted
    }

    /// # Safety
    ///
    /// 44 bytes can be read at `ip`.
    #[inline(always)]
    unsafe fn rejects_ipv6(&self, ip: *const u8) -> bool {
        // SAFETY: By this function's contract.
        let ends = unsafe { ip.add(8).cast::<[[u8; 16]; 2]>().read_unaligned() };
        self.has_address && ends[0] != self.address && ends[1] != self.address
    }
}

impl Drop for NetFilter {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; this is their end, in a process.
        unsafe {
            if !self.sock.is_null() {
                bindings::sock_put(self.sock);
            }
            if !self.cgroup.is_null() {
                bindings::cgroup_put(self.cgroup);
            }
        }
    }
}

/// Takes a reference to the socket behind a process' descriptor. It keeps the socket's memory, not
/// its connection.
fn hold_socket(pid: i32, fd: u32) -> Result<NonNull<bindings::sock>> {
    let process = Process::find(pid)?;
    let thread = process.user_thread().map_err(|_| ESRCH)?;
    let mut found = fd;
    let file = OpenFile::next_of(&thread, &mut found).filter(|_| found == fd);
    let file = file.ok_or(EBADF)?;
    let socket = file.socket().ok_or(ENOTSOCK)?;
    let sk = socket.as_non_null();
    // SAFETY: The file keeps the socket meanwhile.
    unsafe { bindings::sock_hold(sk.as_ptr()) };
    Ok(sk)
}

/// Takes a reference to a cgroup of version 2 that the caller may see.
fn get_cgroup(id: u64) -> Result<NonNull<bindings::cgroup>> {
    // SAFETY: Looks a number up.
    let cgroup = from_err_ptr(unsafe { bindings::cgroup_get_from_id(id) }).map_err(|_| ENOENT)?;
    NonNull::new(cgroup).ok_or(ENOENT)
}

/// Returns whether sockets know their cgroup in this kernel.
pub(crate) fn has_sock_cgroups() -> bool {
    cfg!(CONFIG_SOCK_CGROUP_DATA)
}
