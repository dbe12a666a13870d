// SPDX-License-Identifier: GPL-2.0
//! System calls about sockets.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_void};

use super::{cvt, cvt_long};

/// socket().
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: The descriptor is ours.
    unsafe {
        let fd = cvt(libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// socketpair() of unix sockets.
pub fn socketpair(kind: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: Room for two descriptors, which are then ours.
    unsafe {
        cvt(libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        ))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// An address to bind or to connect to.
pub struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Address {
    fn new<T: Copy>(value: T, len: usize) -> Self {
        // SAFETY: All-zero is a valid sockaddr_storage, and every sockaddr_* fits into it.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        unsafe { ptr::write((&raw mut storage).cast::<T>(), value) };
        Self {
            storage,
            len: len as libc::socklen_t,
        }
    }

    /// 127.0.0.1 and a port.
    pub fn loopback(port: u16) -> Self {
        Self::inet([127, 0, 0, 1], port)
    }

    /// ::1 and a port.
    pub fn loopback6(port: u16) -> Self {
        Self::inet6(std::net::Ipv6Addr::LOCALHOST.octets(), port)
    }

    /// An IPv4 address.
    pub fn inet(ip: [u8; 4], port: u16) -> Self {
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(ip),
            },
            sin_zero: [0; 8],
        };
        Self::new(addr, size_of::<libc::sockaddr_in>())
    }

    /// An IPv6 address.
    pub fn inet6(ip: [u8; 16], port: u16) -> Self {
        // SAFETY: All-zero is a valid sockaddr_in6.
        let mut addr: libc::sockaddr_in6 = unsafe { zeroed() };
        addr.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        addr.sin6_port = port.to_be();
        addr.sin6_addr.s6_addr = ip;
        Self::new(addr, size_of::<libc::sockaddr_in6>())
    }

    /// None: to connect to it ends a connection.
    pub fn unspecified() -> Self {
        let family = libc::AF_UNSPEC as libc::sa_family_t;
        Self::new(family, size_of::<libc::sockaddr_in>())
    }

    /// A unix address: a path, or an abstract name where the first byte is 0.
    pub fn unix(name: &[u8]) -> Self {
        let mut addr = libc::sockaddr_un {
            sun_family: libc::AF_UNIX as libc::sa_family_t,
            sun_path: [0; 108],
        };
        for (to, from) in addr.sun_path.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        let end = if name.first() == Some(&0) { 0 } else { 1 };
        Self::new(addr, size_of::<libc::sa_family_t>() + name.len() + end)
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

/// bind().
pub fn bind(fd: &impl AsRawFd, address: &Address) -> io::Result<()> {
    // SAFETY: The address lives during the call, and its length is right.
    cvt(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// connect().
pub fn connect(fd: &impl AsRawFd, address: &Address) -> io::Result<()> {
    // SAFETY: As in bind().
    cvt(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// The port that an IPv4 socket is bound to.
pub fn port_of(fd: &impl AsRawFd) -> io::Result<u16> {
    // SAFETY: All-zero is a valid sockaddr_in, and there is room for one.
    unsafe {
        let mut addr: libc::sockaddr_in = zeroed();
        let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        cvt(libc::getsockname(
            fd.as_raw_fd(),
            (&raw mut addr).cast(),
            &raw mut len,
        ))?;
        Ok(u16::from_be(addr.sin_port))
    }
}

/// Sends one byte over a unix socket, and a copy of a descriptor with it (SCM_RIGHTS).
pub fn send_descriptor(over: &impl AsRawFd, fd: &impl AsRawFd) -> io::Result<()> {
    let mut byte = 1u8;
    let mut control = [0u64; 4];
    // SAFETY: All pointers of the message lead to what lives during the call; the control buffer is
    // aligned, and has room for one descriptor (CMSG_SPACE(4) is 24).
    unsafe {
        let mut part = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd.as_raw_fd());
        cvt_long(libc::sendmsg(over.as_raw_fd(), &raw const message, 0) as libc::c_long).map(drop)
    }
}

/// listen().
pub fn listen(fd: &impl AsRawFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// accept().
pub fn accept(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: No address is asked for; the descriptor is ours.
    unsafe {
        let none = ptr::null_mut();
        let fd = libc::accept4(fd.as_raw_fd(), none, ptr::null_mut(), libc::SOCK_CLOEXEC);
        Ok(OwnedFd::from_raw_fd(cvt(fd)?))
    }
}

/// shutdown(), with SHUT_RD, SHUT_WR or SHUT_RDWR.
pub fn shutdown(fd: &impl AsRawFd, how: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// send(), with MSG_NOSIGNAL.
pub fn send(fd: &impl AsRawFd, data: &[u8], flags: c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: The data live during the call.
    let n = unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// sendto() an address.
pub fn send_to(fd: &impl AsRawFd, data: &[u8], to: &Address) -> io::Result<usize> {
    // SAFETY: The data and the address live during the call, and their lengths are right.
    let n = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            libc::MSG_NOSIGNAL,
            to.as_ptr(),
            to.len,
        )
    };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// send() of memory at an address that only the kernel is to touch.
pub fn send_address(fd: &impl AsRawFd, addr: usize, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: The kernel checks the address.
    let n = unsafe { libc::send(fd.as_raw_fd(), addr as *const c_void, len, flags) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// recv() of at most `len` bytes.
pub fn recv(fd: &impl AsRawFd, len: usize, flags: c_int) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    // SAFETY: The buffer has that length.
    let n = unsafe { libc::recv(fd.as_raw_fd(), data.as_mut_ptr().cast(), len, flags) };
    data.truncate(cvt_long(n as libc::c_long)? as usize);
    Ok(data)
}

/// setsockopt() of a plain value.
pub fn set_option<T: Copy>(
    fd: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: The value lives during the call.
    cvt(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) })
        .map(drop)
}

/// getsockopt() of an int.
pub fn get_option(fd: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let (mut value, mut len) = (0, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: Room for an int.
    cvt(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// SO_LINGER.
pub fn set_linger(fd: &impl AsRawFd, on: bool, seconds: c_int) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: on.into(),
        l_linger: seconds,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger)
}

fn ioctl_int(fd: &impl AsRawFd, request: libc::Ioctl) -> io::Result<c_int> {
    let mut value = MaybeUninit::<c_int>::zeroed();
    // SAFETY: Both requests store one int.
    unsafe {
        cvt(libc::ioctl(fd.as_raw_fd(), request, value.as_mut_ptr()))?;
        Ok(value.assume_init())
    }
}

/// ioctl SIOCINQ: bytes (or the first datagram) to be read.
pub fn inq(fd: &impl AsRawFd) -> io::Result<c_int> {
    ioctl_int(fd, libc::FIONREAD)
}

/// ioctl SIOCOUTQ: bytes not yet sent or acknowledged.
pub fn outq(fd: &impl AsRawFd) -> io::Result<c_int> {
    ioctl_int(fd, libc::TIOCOUTQ)
}

fn with_loopback(change: impl FnOnce(RawFd, &mut libc::ifreq) -> io::Result<()>) -> io::Result<()> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: All-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    change(fd.as_raw_fd(), &mut request)
}

/// Brings the loopback device of our network namespace up.
pub fn loopback_up() -> io::Result<()> {
    with_loopback(|fd, request| {
        // SAFETY: Both requests take an ifreq, whose flags the first one sets.
        unsafe {
            cvt(libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut *request))?;
            request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as i16;
            cvt(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut *request)).map(drop)
        }
    })
}

/// Sets the loopback device's MTU.
pub fn set_loopback_mtu(mtu: c_int) -> io::Result<()> {
    with_loopback(|fd, request| {
        request.ifr_ifru.ifru_mtu = mtu;
        // SAFETY: The request takes an ifreq.
        cvt(unsafe { libc::ioctl(fd, libc::SIOCSIFMTU, &raw mut *request) }).map(drop)
    })
}

/// ioctl SIOCOUTQNSD: bytes never sent.
pub fn outq_unsent(fd: &impl AsRawFd) -> io::Result<c_int> {
    ioctl_int(fd, 0x894b)
}

/// The file's flags, such as O_NONBLOCK.
pub fn file_flags(fd: &impl AsRawFd) -> io::Result<c_int> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// getsockopt(TCP_INFO), as bytes: include/uapi/linux/tcp.h tells where what stands.
pub fn tcp_info(fd: &impl AsRawFd) -> io::Result<[u8; 256]> {
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: There is room for as many bytes as are said.
    cvt(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(info)
}

/// SO_MEMINFO: `SK_MEMINFO_*` by number.
pub fn meminfo(fd: &impl AsRawFd) -> io::Result<[u32; 9]> {
    let mut info = [0; 9];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: Room for as many bytes.
    cvt(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(info)
}

impl Address {
    /// A device's name, to which a SOCK_PACKET socket is bound.
    pub fn device(name: &[u8]) -> Self {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Device {
            family: u16,
            name: [u8; 14],
        }
        let mut address = Device {
            family: libc::AF_PACKET as u16,
            name: [0; 14],
        };
        address.name[..name.len()].copy_from_slice(name);
        Self::new(address, size_of::<Device>())
    }

    /// A packet socket's: the protocol, and the device's index.
    pub fn packet(protocol: u16, device: c_int) -> Self {
        // SAFETY: All-zero is a valid sockaddr_ll.
        let mut addr: libc::sockaddr_ll = unsafe { zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = protocol.to_be();
        addr.sll_ifindex = device;
        Self::new(addr, size_of::<libc::sockaddr_ll>())
    }

    /// A netlink socket's.
    pub fn netlink(port: u32) -> Self {
        // SAFETY: All-zero is a valid sockaddr_nl.
        let mut addr: libc::sockaddr_nl = unsafe { zeroed() };
        addr.nl_family = libc::AF_NETLINK as u16;
        addr.nl_pid = port;
        Self::new(addr, size_of::<libc::sockaddr_nl>())
    }

    /// A vsock socket's, on whatever machine it is.
    pub fn vsock(port: u32) -> Self {
        // SAFETY: All-zero is a valid sockaddr_vm.
        let mut addr: libc::sockaddr_vm = unsafe { zeroed() };
        addr.svm_family = libc::AF_VSOCK as u16;
        addr.svm_cid = u32::MAX;
        addr.svm_port = port;
        Self::new(addr, size_of::<libc::sockaddr_vm>())
    }
}

/// An io_uring with a few entries.
pub fn ring() -> io::Result<OwnedFd> {
    // struct io_uring_params is 120 bytes, and zero means defaults.
    let mut params = [0u64; 15];
    // SAFETY: There is room for the parameters; the descriptor is ours.
    unsafe {
        let fd = cvt_long(libc::syscall(
            libc::SYS_io_uring_setup,
            4,
            params.as_mut_ptr(),
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// IORING_REGISTER_FILES.
pub fn ring_register(ring: &OwnedFd, fds: &[RawFd]) -> io::Result<()> {
    // SAFETY: The descriptors are read during the call.
    cvt_long(unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            2,
            fds.as_ptr(),
            fds.len(),
        )
    })
    .map(drop)
}

/// An epoll set that watches a descriptor.
pub fn epoll_of(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 0,
    };
    // SAFETY: The event lives during the call; the descriptor is ours.
    unsafe {
        let set = OwnedFd::from_raw_fd(cvt(libc::epoll_create1(libc::EPOLL_CLOEXEC))?);
        let add = libc::EPOLL_CTL_ADD;
        cvt(libc::epoll_ctl(
            set.as_raw_fd(),
            add,
            fd.as_raw_fd(),
            &raw mut event,
        ))?;
        Ok(set)
    }
}

/// A packet socket that hears each packet of the loopback device once, from its IP header on.
pub fn capture_loopback() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK;
    let fd = socket(libc::AF_PACKET, kind, 0)?;
    // PACKET_IGNORE_OUTGOING: the loopback device shows what comes in as well.
    set_option(&fd, libc::SOL_PACKET, 23, 1)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    // ETH_P_ALL, and the loopback device's index in every network namespace.
    bind(&fd, &Address::packet(3, 1))?;
    Ok(fd)
}
