// SPDX-License-Identifier: GPL-2.0
//! Memory. Addresses are numbers: what is mapped here is for the kernel to look at.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_void};

use super::{cvt, cvt_long};

/// mmap() of private anonymous memory at any address.
pub fn map_anon(len: usize, prot: c_int) -> io::Result<usize> {
    map(
        0,
        len,
        prot,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        None,
        0,
    )
}

/// mmap(). With MAP_FIXED only over what the caller mapped itself.
pub fn map(
    addr: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
    file: Option<&File>,
    offset: usize,
) -> io::Result<usize> {
    let fd = file.map_or(-1, |f| f.as_raw_fd());
    // SAFETY: The callers replace only mappings of their own that no reference points to.
    let p = unsafe {
        libc::mmap(
            addr as *mut c_void,
            len,
            prot,
            flags,
            fd,
            offset as libc::off_t,
        )
    };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(p as usize)
    }
}

/// munmap().
pub fn unmap(addr: usize, len: usize) -> io::Result<()> {
    // SAFETY: As in map().
    cvt(unsafe { libc::munmap(addr as *mut c_void, len) }).map(drop)
}

/// mprotect().
pub fn protect(addr: usize, len: usize, prot: c_int) -> io::Result<()> {
    // SAFETY: As in map().
    cvt(unsafe { libc::mprotect(addr as *mut c_void, len, prot) }).map(drop)
}

/// mremap() of a whole mapping to a chosen address and length, there with more flags than needed.
pub fn remap(addr: usize, len: usize, to: usize, to_len: usize, more: c_int) -> io::Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | more;
    // SAFETY: As in map().
    let p = unsafe { libc::mremap(addr as *mut c_void, len, to_len, flags, to as *mut c_void) };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// madvise().
pub fn advise(addr: usize, len: usize, advice: c_int) -> io::Result<()> {
    // SAFETY: As in map().
    cvt(unsafe { libc::madvise(addr as *mut c_void, len, advice) }).map(drop)
}

/// Writes one byte.
pub fn poke(addr: usize, value: u8) {
    // SAFETY: Used with addresses that the caller has mapped writable.
    unsafe { ptr::write_volatile(addr as *mut u8, value) }
}

/// Reads one byte.
pub fn peek(addr: usize) -> u8 {
    // SAFETY: Used with addresses that the caller has mapped readable.
    unsafe { ptr::read_volatile(addr as *const u8) }
}

// userfaultfd: memory whose first touch waits for us.

const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;

/// A userfaultfd over a range: who touches a page there waits for zero_page(). The descriptor is
/// readable as soon as somebody waits.
pub fn userfault(addr: usize, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: The structures are those that the ioctls take: uffdio_api, uffdio_register.
    unsafe {
        let fd = cvt_long(libc::syscall(
            libc::SYS_userfaultfd,
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        ))?;
        let fd = OwnedFd::from_raw_fd(fd as RawFd);
        let mut api: [u64; 3] = [0xaa, 0, 0];
        cvt(libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()))?;
        let mut register: [u64; 4] = [addr as u64, len as u64, 1, 0];
        cvt(libc::ioctl(
            fd.as_raw_fd(),
            UFFDIO_REGISTER,
            register.as_mut_ptr(),
        ))?;
        Ok(fd)
    }
}

/// Gives zeroes to who waits for the pages of a userfaultfd's range.
pub fn zero_page(fd: &OwnedFd, addr: usize, len: usize) -> io::Result<()> {
    let mut zero: [u64; 4] = [addr as u64, len as u64, 0, 0];
    // SAFETY: The structure is uffdio_zeropage.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_ZEROPAGE, zero.as_mut_ptr()) }).map(drop)
}
