// SPDX-License-Identifier: GPL-2.0
//! Memory. Addresses are numbers: what is mapped here is for the kernel to look at.

use std::fs::File;
use std::io;
use std::mem::size_of;
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

// userfaultfd: memory whose first touch, or first write, waits for us.

const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;
const UFFDIO_WRITEPROTECT: libc::Ioctl = 0xc018_aa06_u32 as libc::Ioctl;

/// What waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A touch of a page that is missing, for zero_page().
    Missing = 1,
    /// A write to a page that write_protect() has protected, be there one or (where the kernel can) not.
    Write = 2,
}

/// `UFFD_FEATURE_WP_UNPOPULATED`: pages that are not there can be protected, too.
const WP_UNPOPULATED: u64 = 1 << 13;

fn new_userfault(features: u64) -> io::Result<(OwnedFd, u64)> {
    let mut api: [u64; 3] = [0xaa, features, 0];
    // SAFETY: The structure is the ioctl's, uffdio_api.
    let fd = unsafe {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let fd = cvt_long(libc::syscall(libc::SYS_userfaultfd, flags))?;
        let fd = OwnedFd::from_raw_fd(fd as RawFd);
        cvt(libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()))?;
        fd
    };
    Ok((fd, api[1]))
}

/// Whether this kernel can protect pages that are not there.
pub fn protects_unpopulated() -> io::Result<bool> {
    let (_, offered) = new_userfault(0)?;
    Ok(offered & WP_UNPOPULATED != 0)
}

/// A userfaultfd over a range. The descriptor is readable as soon as somebody waits.
pub fn userfault(addr: usize, len: usize, fault: Fault) -> io::Result<OwnedFd> {
    let marks = fault == Fault::Write && protects_unpopulated()?;
    let (fd, _) = new_userfault(if marks { WP_UNPOPULATED } else { 0 })?;
    let mut register: [u64; 4] = [addr as u64, len as u64, fault as u64, 0];
    // SAFETY: The structure is the ioctl's, uffdio_register.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()) })?;
    Ok(fd)
}

/// Gives zeroes to who waits for the pages of a userfaultfd's range.
pub fn zero_page(fd: &OwnedFd, addr: usize, len: usize) -> io::Result<()> {
    let mut zero: [u64; 4] = [addr as u64, len as u64, 0, 0];
    // SAFETY: The structure is uffdio_zeropage.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_ZEROPAGE, zero.as_mut_ptr()) }).map(drop)
}

/// Protects pages of a userfaultfd's range from being written, or no longer.
pub fn write_protect(fd: &OwnedFd, addr: usize, len: usize, protect: bool) -> io::Result<()> {
    let mut range: [u64; 3] = [addr as u64, len as u64, protect.into()];
    // SAFETY: The structure is uffdio_writeprotect.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_WRITEPROTECT, range.as_mut_ptr()) }).map(drop)
}

const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;

/// Pages that follow each other and are of the same categories (struct page_region).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `PAGE_IS_*`.
    pub categories: u64,
}

/// ioctl PAGEMAP_SCAN of a file pagemap: pages of any of the categories, at most `most` regions, and
/// where it stopped.
pub fn pagemap_scan(
    pagemap: &File,
    start: u64,
    end: u64,
    categories: u64,
    most: usize,
) -> io::Result<(Vec<Region>, u64)> {
    let mut regions = vec![Region::default(); most];
    let mut arg: [u64; 12] = [
        size_of::<[u64; 12]>() as u64,
        0,
        start,
        end,
        0,
        regions.as_mut_ptr() as u64,
        most as u64,
        0,
        0,
        0,
        categories,
        categories,
    ];
    // SAFETY: The structure is pm_scan_arg, and there is room for as many regions as it says.
    let found = cvt(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, arg.as_mut_ptr()) })?;
    regions.truncate(found as usize);
    Ok((regions, arg[4]))
}
