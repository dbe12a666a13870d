//! Threads that are in a system call on a descriptor that leads nowhere any more.
//!
//! A system call holds the open file until it returns, whatever becomes of the descriptor. The
//! kernel does not say which file that is: a thread is only known to use one of the sockets that
//! nothing else has.

use std::fs;
use std::io;
use std::path::Path;

use ravel_records::{SkState, Text};
use serde::Serialize;

use super::netns;
use super::socket::Sock;
use crate::proc::{Proc, exited};
use crate::syscall;

/// A thread in a system call on a socket that its descriptor does not lead to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Call {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The name of the process.
    pub comm: Text,
    /// The system call.
    pub call: String,
    /// The descriptor that it was called with.
    pub fd: u32,
    /// Inode of the thread's network namespace.
    #[serde(skip)]
    pub netns: Option<u64>,
}

/// What a system call can be used on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Accept,
    Connect,
    Transfer,
    Close,
}

fn use_of(call: &str) -> Option<Use> {
    Some(match call {
        "accept" | "accept4" => Use::Accept,
        "connect" => Use::Connect,
        "recvfrom" | "recvmsg" | "recvmmsg" | "read" | "readv" | "preadv2" | "sendto"
        | "sendmsg" | "sendmmsg" | "write" | "writev" | "pwritev2" | "sendfile" | "splice"
        | "recv" | "send" | "sendfile64" | "tee" => Use::Transfer,
        "close" | "shutdown" => Use::Close,
        _ => return None,
    })
}

impl Call {
    /// Whether the call can be one on a socket.
    pub fn suits(&self, sock: &Sock) -> bool {
        let listens = sock.listens();
        match use_of(&self.call) {
            Some(Use::Accept) => listens,
            Some(Use::Connect) => {
                !sock.is_stream() || sock.state == SkState::SynSent || sock.unix.is_some()
            }
            Some(Use::Transfer) => !listens,
            Some(Use::Close) => !listens && (sock.is_stream() || sock.unix.is_some()),
            None => false,
        }
    }
}

/// The calls in progress on descriptors that are closed, or lead to something else by now, of all
/// threads.
pub fn calls(proc: &Proc) -> io::Result<Vec<Call>> {
    let mut found = Vec::new();
    for pid in proc.pids()? {
        // One that has exited uses no socket.
        for tid in proc.threads(pid).unwrap_or_default() {
            found.extend(call_of(proc, pid, tid));
        }
    }
    Ok(found)
}

fn call_of(proc: &Proc, pid: u32, tid: u32) -> Option<Call> {
    let task = format!("{pid}/task/{tid}");
    let line = fs::read_to_string(proc.file(&format!("{task}/syscall"))).ok()?;
    let (call, fd) = in_call(&line)?;
    let path = netns::descriptor(proc, &task, fd);
    match fs::read_link(path) {
        Err(error) if exited(&error) => {}
        // A regular file does not keep accept() or recvmsg() waiting; the call is on what it was
        // before.
        Ok(link) if !leads_to_socket(&link) && use_of(call) != Some(Use::Transfer) => {}
        _ => return None,
    }
    let netns = fs::metadata(proc.file(&format!("{task}/ns/net")));
    Some(Call {
        pid,
        tid,
        comm: proc.comm(pid).ok()?,
        call: call.to_owned(),
        fd,
        netns: netns.ok().map(|netns| {
            use std::os::unix::fs::MetadataExt;

            netns.ino()
        }),
    })
}

fn leads_to_socket(link: &Path) -> bool {
    link.to_str()
        .is_some_and(|link| link.starts_with("socket:["))
}

/// The system call of a line of /proc/PID/task/TID/syscall, if it is one on a file, and its
/// descriptor.
fn in_call(line: &str) -> Option<(&'static str, u32)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // Threads of the kernel have no stack of a program.
    let [number, first, .., stack, _] = words[..] else {
        return None;
    };
    if stack == "0x0" {
        return None;
    }
    let number: i64 = number.parse().ok()?;
    let first = first.trim_start_matches("0x");
    let fd = u64::from_str_radix(first, 16).ok()? as u32;
    // The line does not say whether the program is a 32-bit one.
    let name = |is_compat| syscall::name(number, is_compat).filter(|name| use_of(name).is_some());
    let call = name(false).or_else(|| name(true))?;
    (i32::try_from(fd).is_ok()).then_some((call, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn lines_of_calls() {
        let of = |line: &str| in_call(line);
        assert_eq!(
            of("43 0x3 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f1a"),
            Some(("accept", 3))
        );
        assert_eq!(
            of("288 0x10 0x0 0x0 0x80000 0x0 0x0 0x7ffc 0x7f1a"),
            Some(("accept4", 16))
        );
        assert_eq!(
            of("45 0xffffffff00000005 0x0 0x0 0x0 0x0 0x0 0x1 0x1"),
            Some(("recvfrom", 5))
        );
        let kernel = "0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0";
        for line in [
            "running",
            "-1 0x7f 0x7f",
            "",
            "43",
            "202 0x7f 0x0 0x0",
            kernel,
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
