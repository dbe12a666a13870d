// SPDX-License-Identifier: GPL-2.0
//! bpf(): a sockmap, by a program of which all that one socket sends reaches another.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::cvt_long;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_MSG: u32 = 16;
const BPF_SK_MSG_VERDICT: u32 = 7;

/// The part of `union bpf_attr` that these commands use, as words of four bytes.
#[repr(C, align(8))]
struct Attr([u32; 32]);

fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<libc::c_long> {
    let len = size_of::<Attr>();
    // SAFETY: The attributes live during the call, and so does what they point to.
    cvt_long(unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr.0, len) })
}

/// A command that returns a descriptor.
fn bpf_fd(command: libc::c_int, attr: &mut Attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: The descriptor is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn words(pointer: u64) -> [u32; 2] {
    [pointer as u32, (pointer >> 32) as u32]
}

/// A sockmap with a program.
pub struct Sockmap {
    map: OwnedFd,
    _program: OwnedFd,
}

impl Sockmap {
    /// A map for two sockets: what the second one sends is put where the first one reads.
    pub fn new() -> io::Result<Self> {
        let mut attr = Attr([0; 32]);
        attr.0[..4].copy_from_slice(&[BPF_MAP_TYPE_SOCKMAP, 4, 4, 2]);
        let map = bpf_fd(BPF_MAP_CREATE, &mut attr)?;
        let program: [u64; 6] = [
            // r2 = the map, in two instructions; r3 = 0, the key; r4 = BPF_F_INGRESS
            0x1218 | ((map.as_raw_fd() as u64) << 32),
            0,
            0x03b7,
            0x04b7 | (1 << 32),
            // bpf_msg_redirect_map(); return what it returns
            0x85 | (60 << 32),
            0x95,
        ];
        let license = c"GPL";
        let mut attr = Attr([0; 32]);
        attr.0[0] = BPF_PROG_TYPE_SK_MSG;
        attr.0[1] = program.len() as u32;
        attr.0[2..4].copy_from_slice(&words(program.as_ptr().addr() as u64));
        attr.0[4..6].copy_from_slice(&words(license.as_ptr().addr() as u64));
        let program = bpf_fd(BPF_PROG_LOAD, &mut attr)?;
        let mut attr = Attr([0; 32]);
        let fds = [map.as_raw_fd() as u32, program.as_raw_fd() as u32];
        attr.0[..3].copy_from_slice(&[fds[0], fds[1], BPF_SK_MSG_VERDICT]);
        bpf(BPF_PROG_ATTACH, &mut attr)?;
        Ok(Self {
            map,
            _program: program,
        })
    }

    /// Puts a connected socket into one of the two places.
    pub fn put(&self, key: u32, fd: &impl AsRawFd) -> io::Result<()> {
        let value = fd.as_raw_fd() as u32;
        let mut attr = Attr([0; 32]);
        attr.0[0] = self.map.as_raw_fd() as u32;
        attr.0[2..4].copy_from_slice(&words((&raw const key).addr() as u64));
        attr.0[4..6].copy_from_slice(&words((&raw const value).addr() as u64));
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}
