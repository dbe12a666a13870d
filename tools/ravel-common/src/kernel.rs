//! System calls that no crate makes.

use std::cmp::Ordering;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// KCMP_FILES of `linux/kcmp.h`.
const KCMP_FILES: libc::c_long = 2;
/// `linux/sockios.h`.
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// Compares the descriptor tables of two tasks: equal if they share one; otherwise an order that
/// stays the same until the machine is booted again.
#[allow(unsafe_code)]
pub fn compare_tables(one: u32, other: u32) -> io::Result<Ordering> {
    // SAFETY: kcmp() reads no memory of this process.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            libc::c_long::from(one),
            libc::c_long::from(other),
            KCMP_FILES,
            0,
            0,
        )
    };
    match order {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        3 => Err(io::Error::other("the kernel cannot order the tables")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the network namespace of a socket, whichever process has the socket.
#[allow(unsafe_code)]
pub fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: The request takes no argument, and returns a descriptor that nobody else owns.
    unsafe {
        match libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_a_table_and_other_processes_do_not() {
        let us = std::process::id();
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.unwrap();
        let of = |one, other| compare_tables(one, other).map_err(|error| error.raw_os_error());
        // Some containers forbid the call.
        if of(us, us) != Err(Some(libc::EPERM)) {
            assert_eq!(of(us, us), Ok(Ordering::Equal));
            assert_ne!(of(us, child.id()), Ok(Ordering::Equal));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(of(us, u32::MAX >> 1).is_err());
    }
}
