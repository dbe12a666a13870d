//! Unix sockets that have received descriptors which nobody has read, and io_urings with requests
//! that wait for a file.
//!
//! The kernel says how many descriptors wait, and not which. A socket that nothing else has is in
//! one of these queues, or in a message of a socket that is itself in one.

use std::io;

use serde::Serialize;

use super::Census;
use super::holders::Descriptor;
use super::socket::Sock;
use crate::proc::{Proc, Subject, Unread, exited};

/// A unix socket with descriptors in messages that are not read, or a listener with such
/// connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Queue {
    /// The unix socket.
    #[serde(flatten)]
    pub holder: Descriptor,
    /// How many descriptors wait.
    pub waiting: u64,
}

/// All such queues.
pub fn queues(census: &Census, proc: &Proc, unread: &mut Unread) -> Vec<Queue> {
    let mut found = Vec::new();
    for sock in census.socks.iter().filter(|sock| sock.unix.is_some()) {
        let held = census.holders.descriptors.get(&sock.inode);
        // All descriptors lead to one queue.
        let Some(first) = held.and_then(|held| held.first()) else {
            continue;
        };
        match waiting(proc, first) {
            Ok(0) => {}
            Ok(waiting) => found.push(Queue {
                holder: first.clone(),
                waiting,
            }),
            Err(error) if exited(&error) => {}
            Err(error) => unread.add(Subject::Messages, first.pid, error),
        }
    }
    found.sort_unstable();
    found
}

fn waiting(proc: &Proc, of: &Descriptor) -> io::Result<u64> {
    let task = of.tid.unwrap_or(of.pid);
    let path = proc.file(&format!("{}/task/{task}/fdinfo/{}", of.pid, of.fd));
    Ok(scm_fds(&std::fs::read_to_string(path)?))
}

/// The number in the fdinfo of a unix socket (unix_show_fdinfo()).
fn scm_fds(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("scm_fds:"));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// The rings with a request that can be one on a socket.
pub fn requests(census: &Census, sock: &Sock) -> Vec<Descriptor> {
    let suits = |opcode: &u32| match opcode {
        // IORING_OP_POLL_ADD.
        6 => true,
        // IORING_OP_ACCEPT.
        13 => sock.listens(),
        // IORING_OP_READV, WRITEV, SENDMSG, RECVMSG, CONNECT, READ, WRITE, SEND, RECV, SEND_ZC,
        // SENDMSG_ZC.
        1 | 2 | 9 | 10 | 16 | 22 | 23 | 26 | 27 | 47 | 48 => !sock.listens(),
        _ => false,
    };
    let rings = census.holders.rings.iter();
    let suiting = rings.filter(|(_, opcodes)| opcodes.iter().any(suits));
    suiting.map(|(ring, _)| ring.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_wait() {
        assert_eq!(scm_fds("pos:\t0\nflags:\t02\nscm_fds: 2\n"), 2);
        assert_eq!(scm_fds("pos:\t0\nflags:\t02\n"), 0);
    }
}
