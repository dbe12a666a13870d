// SPDX-License-Identifier: GPL-2.0
//! System calls about network devices, and about packets with what the kernel says of them.

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd;

use libc::c_int;

use super::{cvt, cvt_long, socket};

fn named(name: &str) -> libc::ifreq {
    // SAFETY: All-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    request
}

/// A device whose wire is a file: with IFF_TUN IP packets, with IFF_TAP Ethernet frames.
pub fn tun(name: &str, flags: c_int) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETIFF takes an ifreq.
    cvt(unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_54ca, &raw mut request) })?;
    Ok(file)
}

/// Switches an offload of a device, by an `ETHTOOL_S*` command.
pub fn offload(name: &str, command: u32, on: bool) -> io::Result<()> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut value = [command, on.into()];
    let mut request = named(name);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq whose data are a struct ethtool_value.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), 0x8946, &raw mut request) }).map(drop)
}

/// writev() of a packet in pieces.
pub fn write_pieces(file: &File, pieces: &[&[u8]]) -> io::Result<usize> {
    let parts: Vec<libc::iovec> = pieces
        .iter()
        .map(|piece| libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        })
        .collect();
    // SAFETY: The pieces live during the call, and are only read.
    let n = unsafe { libc::writev(file.as_raw_fd(), parts.as_ptr(), parts.len() as c_int) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// A control message: its level, its type, and its bytes.
pub type Control = (c_int, c_int, Vec<u8>);

/// A packet as recvmsg() gives it: its bytes, the sender's address, and the control messages.
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The struct sockaddr_*.
    pub name: Vec<u8>,
    /// The control messages.
    pub control: Vec<Control>,
}

impl Message {
    /// The bytes of one control message.
    pub fn control(&self, level: c_int, kind: c_int) -> Option<&[u8]> {
        self.control
            .iter()
            .find(|(l, k, _)| (*l, *k) == (level, kind))
            .map(|(_, _, bytes)| bytes.as_slice())
    }
}

/// recvmsg().
pub fn recv_message(fd: &impl AsRawFd, flags: c_int) -> io::Result<Message> {
    let mut bytes = vec![0u8; 70_000];
    let mut name = vec![0u8; size_of::<libc::sockaddr_storage>()];
    let mut space = [0u64; 128];
    // SAFETY: All pointers of the message lead to what lives during the call, with the lengths that are said;
    // the control messages are walked as the kernel has left them.
    unsafe {
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut message: libc::msghdr = zeroed();
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = name.len() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&space);
        let n = libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags);
        let n = cvt_long(n as libc::c_long)? as usize;
        let mut control = Vec::new();
        let mut at = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(head) = at.as_ref() {
            let len = head.cmsg_len - libc::CMSG_LEN(0) as usize;
            let data = std::slice::from_raw_parts(libc::CMSG_DATA(at), len);
            control.push((head.cmsg_level, head.cmsg_type, data.to_vec()));
            at = libc::CMSG_NXTHDR(&raw const message, at);
        }
        bytes.truncate(n);
        name.truncate(message.msg_namelen as usize);
        Ok(Message {
            bytes,
            name,
            control,
        })
    }
}

/// A device's index in our network namespace.
pub fn device_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: A string that ends with NUL.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// A packet socket that hears each packet that comes by a device once, from its first byte on; with
/// PACKET_VNET_HDR, each with a struct virtio_net_hdr before it.
pub fn capture(device: &str, vnet: bool) -> io::Result<std::os::fd::OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK;
    let fd = socket(libc::AF_PACKET, kind, 0)?;
    super::set_option(&fd, libc::SOL_PACKET, 23, 1)?;
    super::set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
    if vnet {
        super::set_option(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    }
    let index = device_index(device)? as c_int;
    super::bind(&fd, &super::Address::packet(3, index))?;
    Ok(fd)
}
