//! TCP connections as /proc/PID/net/tcp and tcp6 list them: those that no descriptor leads to are nowhere else.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ravel_records::SkState;

use crate::proc::{Proc, Subject, Unread, exited};

/// What distinguishes a connection from all others: a network namespace's inode, and both addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addresses {
    /// Inode of the network namespace.
    pub netns: u64,
    /// This end.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
}

impl Addresses {
    /// Both ends of a connection, of which the one may have an IPv6 socket and the other an IPv4 one.
    pub fn new(netns: u64, local: SocketAddr, remote: SocketAddr) -> Self {
        let plain =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self {
            netns,
            local: plain(local),
            remote: plain(remote),
        }
    }

    /// The same connection, seen from its other end in the same namespace.
    pub fn reversed(self) -> Self {
        Self {
            netns: self.netns,
            local: self.remote,
            remote: self.local,
        }
    }
}

/// A line of such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Which one it is.
    pub addresses: Addresses,
    /// Its state.
    pub state: SkState,
    /// Bytes, and a FIN, that the peer has not acknowledged.
    pub tx: u64,
    /// Bytes, and a FIN, that nobody has read.
    pub rx: u64,
    /// 0 where no open file has it.
    pub inode: u64,
    /// Milliseconds until its timer fires, if one is set.
    pub timer_ms: Option<u64>,
    /// Only a remnant is left of it, which that timer removes (`inet_timewait_sock`).
    pub remnant: bool,
}

/// The network namespaces that processes are in, each with all of its processes. What could not be read is added to
/// `unread`.
pub fn namespaces(proc: &Proc, unread: &mut Unread) -> io::Result<BTreeMap<u64, Vec<u32>>> {
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for pid in proc.pids()? {
        match proc.netns(pid) {
            Ok(netns) => found.entry(netns).or_default().push(pid),
            Err(error) if exited(&error) => {}
            Err(error) => unread.add(Subject::Namespace, pid, error),
        }
    }
    Ok(found)
}

/// The connections of a network namespace that `wanted` selects, as the first of its processes that can be read sees them.
///
/// None if all of them have exited or moved to another namespace. Fails if one is there and cannot be read.
pub fn connections(
    proc: &Proc,
    netns: u64,
    pids: &[u32],
    mut wanted: impl FnMut(&Connection) -> bool,
) -> io::Result<Option<Vec<Connection>>> {
    let mut failed = None;
    for pid in pids {
        let mut found = Vec::new();
        let read = ["net/tcp", "net/tcp6"]
            .into_iter()
            .try_for_each(|name| read(proc, *pid, name, netns, &mut wanted, &mut found));
        match (read, proc.netns(*pid)) {
            (Ok(()), Ok(now)) if now == netns => return Ok(Some(found)),
            // It has exited, or moved.
            (_, Ok(now)) if now != netns => {}
            (Err(error), Ok(_)) => failed = Some(error),
            (_, Err(error)) if exited(&error) => {}
            (_, Err(error)) => failed = Some(error),
            (Ok(()), Ok(_)) => {}
        }
    }
    failed.map_or(Ok(None), Err)
}

fn read(
    proc: &Proc,
    pid: u32,
    name: &str,
    netns: u64,
    wanted: &mut impl FnMut(&Connection) -> bool,
    found: &mut Vec<Connection>,
) -> io::Result<()> {
    let file = match proc.open(pid, name) {
        Ok(file) => file,
        // There is no IPv6; or the process has exited, which its namespace's file shows.
        Err(error) if exited(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    while file.read_line(&mut line)? > 0 {
        match parse(&line, netns) {
            Some(connection) => found.extend(Some(connection).filter(&mut *wanted)),
            // The head names the columns.
            None if line.contains("local_address") => {}
            None => {
                return Err(io::Error::other(format!(
                    "{name} has a line of another form"
                )));
            }
        }
        line.clear();
    }
    Ok(())
}

/// A line of get_tcp4_sock() or get_timewait4_sock(), or of their twins for IPv6.
fn parse(line: &str, netns: u64) -> Option<Connection> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = state(words.next()?)?;
    let (tx, rx) = pair(words.next()?)?;
    let (timer, ticks) = pair(words.next()?)?;
    let inode = words.nth(3)?.parse().ok()?;
    Some(Connection {
        addresses: Addresses::new(netns, local, remote),
        state,
        tx,
        rx,
        inode,
        // In hundredths of a second (USER_HZ).
        timer_ms: (timer != 0).then_some(ticks.saturating_mul(10)),
        remnant: timer == 3,
    })
}

fn pair(word: &str) -> Option<(u64, u64)> {
    let (one, two) = word.split_once(':')?;
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    Some((hex(one)?, hex(two)?))
}

/// An address: words of 32 bits as they stand in memory, and the port.
fn address(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let quad = |at: usize| -> Option<[u8; 4]> {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(quad(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&quad(at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn state(word: &str) -> Option<SkState> {
    // include/net/tcp_states.h
    Some(match u8::from_str_radix(word, 16).ok()? {
        1 => SkState::Established,
        2 => SkState::SynSent,
        3 => SkState::SynRecv,
        4 => SkState::FinWait1,
        5 => SkState::FinWait2,
        6 => SkState::TimeWait,
        7 => SkState::Close,
        8 => SkState::CloseWait,
        9 => SkState::LastAck,
        10 => SkState::Listen,
        11 => SkState::Closing,
        12 => SkState::NewSynRecv,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn named(local: &str, remote: &str) -> Addresses {
        Addresses::new(9, local.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn lines_of_both_kinds() {
        let full = "   1: 0100007F:1B58 0100007F:A372 08 00000000:00000006 00:00000000 00000000     0        0 \
                    20813 1 0000000000000000 20 4 30 10 -1 \n";
        let full = parse(full, 9).unwrap();
        assert_eq!(full.addresses, named("127.0.0.1:7000", "127.0.0.1:41842"));
        assert_eq!((full.state, full.tx, full.rx), (SkState::CloseWait, 0, 6));
        assert_eq!(
            (full.inode, full.timer_ms, full.remnant),
            (20813, None, false)
        );
        let left = "   2: 0100007F:A372 0100007F:1B58 05 00000000:00000000 03:0000102F 00000000     0        0 \
                    0 3 0000000000000000\n";
        let left = parse(left, 9).unwrap();
        assert_eq!(left.addresses, full.addresses.reversed());
        assert_eq!((left.state, left.inode), (SkState::FinWait2, 0));
        assert_eq!((left.timer_ms, left.remnant), (Some(41_430), true));
    }

    #[test]
    fn addresses_of_both_families() {
        let mapped = "0000000000000000FFFF00000100007F:0050";
        assert_eq!(
            address(mapped).map(|address| address.ip().to_canonical()),
            Some("127.0.0.1".parse().unwrap())
        );
        let six = "B80D0120000000000000000001000000:01BB";
        assert_eq!(address(six), Some("[2001:db8::1]:443".parse().unwrap()));
        for bad in [
            "",
            ":",
            "0100007F",
            "0100007F:",
            "0100:0050",
            "0100007G:0050",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_connection_is_passed_over() {
        for line in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
            "   1: 0100007F:1B58 0100007F:A372 08 00000000:00000006 00:00000000\n",
        ] {
            assert_eq!(parse(line, 9), None, "{line}");
        }
    }

    fn folder(root: &Path, pid: u32, netns_of: Option<u32>) {
        fs::create_dir_all(root.join(format!("{pid}/net"))).unwrap();
        fs::create_dir_all(root.join(format!("{pid}/ns"))).unwrap();
        let ns = root.join(format!("{pid}/ns/net"));
        match netns_of {
            Some(other) => symlink(root.join(format!("{other}/ns/net")), ns).unwrap(),
            None => fs::create_dir(ns).unwrap(),
        }
    }

    const LINE: &str = " 0: 0100007F:1B58 0100007F:A372 05 0:0 03:10 0 0 0 0 3 0\n";

    #[test]
    fn a_process_that_moved_shows_nothing() {
        let root = tempfile::tempdir().unwrap();
        folder(root.path(), 7, None);
        fs::create_dir_all(root.path().join("self")).unwrap();
        fs::write(root.path().join("7/net/tcp"), LINE).unwrap();
        let proc = Proc::at(root.path());
        let here = proc.netns(7).unwrap();
        let mut unread = Unread::default();
        let found = namespaces(&proc, &mut unread).unwrap();
        assert_eq!(found, BTreeMap::from([(here, vec![7])]));
        assert!(unread.is_empty());
        let of = |netns, all| {
            let found = connections(&proc, netns, &[7], |_| all).unwrap();
            found.map(|found| found.len())
        };
        assert_eq!(of(here, true), Some(1));
        assert_eq!(of(here, false), Some(0));
        assert_eq!(of(here + 1, true), None);
    }

    #[test]
    fn another_process_of_the_namespace_is_read_where_one_has_exited() {
        let root = tempfile::tempdir().unwrap();
        folder(root.path(), 9, None);
        fs::write(root.path().join("9/net/tcp"), LINE).unwrap();
        let proc = Proc::at(root.path());
        let here = proc.netns(9).unwrap();
        let found = connections(&proc, here, &[7, 8, 9], |_| true).unwrap();
        assert_eq!(found.unwrap().len(), 1);
        // All have exited.
        assert_eq!(connections(&proc, here, &[7, 8], |_| true).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        folder(root.path(), 7, None);
        let proc = Proc::at(root.path());
        let here = proc.netns(7).unwrap();
        // A folder can be opened, and not read.
        fs::create_dir(root.path().join("7/net/tcp")).unwrap();
        assert!(connections(&proc, here, &[7], |_| true).is_err());
        // Another process of the namespace can be read.
        folder(root.path(), 8, Some(7));
        fs::write(root.path().join("8/net/tcp"), LINE).unwrap();
        let found = connections(&proc, here, &[7, 8], |_| true).unwrap();
        assert_eq!(found.unwrap().len(), 1);
        fs::write(root.path().join("8/net/tcp6"), "no line of a socket\n").unwrap();
        assert!(connections(&proc, here, &[7, 8], |_| true).is_err());
        // Processes whose namespaces cannot be seen are counted.
        fs::create_dir(root.path().join("9")).unwrap();
        symlink("net", root.path().join("9/ns")).unwrap();
        symlink("ns", root.path().join("9/net")).unwrap();
        let mut unread = Unread::default();
        namespaces(&proc, &mut unread).unwrap();
        assert_eq!((unread.0.len(), &unread.0[0].pids), (1, &vec![9]));
    }
}
