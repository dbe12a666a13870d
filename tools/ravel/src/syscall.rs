//! Names of system calls, by the numbers of this machine's architecture.

#[cfg(target_arch = "x86_64")]
use syscalls::{x86 as compat, x86_64 as native};

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64 as native, arm as compat};

/// The name of a system call; `is_compat`: of a 32-bit program. None for a number that is not known, and on
/// architectures whose numbers are not known here.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn name(number: i64, is_compat: bool) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    match is_compat {
        true => compat::Sysno::new(number).map(|call| call.name()),
        false => native::Sysno::new(number).map(|call| call.name()),
    }
}

/// The name of a system call.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn name(_number: i64, _is_compat: bool) -> Option<&'static str> {
    None
}

/// Whether a line of /proc/PID/task/TID/syscall is that of a thread that waits at an epoll set.
///
/// The line does not say whether the program is a 32-bit one, so both tables are tried. The one ambiguity, on x86, is
/// migrate_pages() of a 64-bit program for a process whose pid is the descriptor's number.
pub fn waits_at_epoll(line: &str, fd: u32) -> bool {
    let mut words = line.split_whitespace();
    let Some(Ok(number)) = words.next().map(str::parse::<i64>) else {
        return false;
    };
    let first = words
        .next()
        .and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let waits = |is_compat| {
        let name = name(number, is_compat);
        name.is_some_and(|name| matches!(name, "epoll_wait" | "epoll_pwait" | "epoll_pwait2"))
    };
    // Descriptors are ints: the upper half of the register is not looked at.
    (waits(false) || waits(true)) && first.is_some_and(|first| first as u32 == fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn numbers_of_both_kinds_of_programs() {
        assert_eq!(name(232, false), Some("epoll_wait"));
        assert_eq!(name(256, true), Some("epoll_wait"));
        assert_eq!(name(-1, false), None);
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn numbers_of_both_kinds_of_programs() {
        assert_eq!(name(22, false), Some("epoll_pwait"));
        assert_eq!(name(252, true), Some("epoll_wait"));
        assert_eq!(name(232, false), Some("mincore"));
    }

    #[test]
    fn lines_that_are_no_calls() {
        for line in ["running", "-1 0x7f 0x7f", "", "x 0x8"] {
            assert!(!waits_at_epoll(line, 8), "{line}");
        }
    }
}
