//! TCP connections as /proc/PID/net/tcp and tcp6 tell them: those that no descriptor leads to are nowhere else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ravel_records::SkState;

/// What tells a connection from all others: a network namespace's inode, and both addresses.
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

/// The processes' view of networks.
#[derive(Clone, Debug)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self("/proc".into())
    }
}

impl Proc {
    /// The processes' numbers, in order.
    pub fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut pids: Vec<u32> = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        pids
    }

    /// The network namespaces that processes are in, each with one of these.
    pub fn namespaces(&self) -> BTreeMap<u64, u32> {
        let mut found = BTreeMap::new();
        for pid in self.pids() {
            if let Ok(namespace) = fs::metadata(self.0.join(format!("{pid}/ns/net"))) {
                found.entry(namespace.ino()).or_insert(pid);
            }
        }
        found
    }

    /// The connections of a network namespace that `wanted` takes, as one of its processes sees them; none where
    /// that has exited, or is elsewhere by now.
    pub fn connections(
        &self,
        netns: u64,
        pid: u32,
        mut wanted: impl FnMut(&Connection) -> bool,
    ) -> Vec<Connection> {
        let folder = self.0.join(pid.to_string());
        let mut found = Vec::new();
        for name in ["net/tcp", "net/tcp6"] {
            read(&folder.join(name), netns, &mut wanted, &mut found);
        }
        let still = fs::metadata(folder.join("ns/net"));
        if !still.is_ok_and(|namespace| namespace.ino() == netns) {
            found.clear();
        }
        found
    }
}

fn read(
    path: &Path,
    netns: u64,
    wanted: &mut impl FnMut(&Connection) -> bool,
    found: &mut Vec<Connection>,
) {
    let Ok(file) = File::open(path) else {
        return;
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut line = String::new();
    while file.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        found.extend(parse(&line, netns).filter(&mut *wanted));
        line.clear();
    }
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

    #[test]
    fn a_process_that_went_elsewhere_tells_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("7/net")).unwrap();
        fs::create_dir_all(root.path().join("7/ns/net")).unwrap();
        fs::create_dir_all(root.path().join("self")).unwrap();
        let line = " 0: 0100007F:1B58 0100007F:A372 05 0:0 03:10 0 0 0 0 3 0\n";
        fs::write(root.path().join("7/net/tcp"), line).unwrap();
        let proc = Proc(root.path().into());
        let here = fs::metadata(root.path().join("7/ns/net")).unwrap().ino();
        assert_eq!(proc.namespaces(), BTreeMap::from([(here, 7)]));
        assert_eq!(proc.connections(here, 7, |_| true).len(), 1);
        assert_eq!(proc.connections(here, 7, |_| false).len(), 0);
        assert_eq!(proc.connections(here + 1, 7, |_| true).len(), 0);
    }
}
