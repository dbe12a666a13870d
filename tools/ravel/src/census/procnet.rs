//! The sockets that /proc/net lists: those of families without sock_diag, and all where the kernel
//! lacks it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::net::SocketAddr;

use procfs_core::net::{TcpNetEntries, TcpState, UdpNetEntries, UdpState};
use procfs_core::{FromReadSI, SystemInfoInterface};
use ravel_records::{Family, Protocol, SkState, SocketKind};

use super::socket::{Ends, Sock, Unix, What, without_file};

/// Files of the namespace of the thread that reads them.
const FOLDER: &str = "/proc/thread-self/net";

/// What the parser asks about the machine that wrote the files: it is this one.
struct Here;

impl SystemInfoInterface for Here {
    fn boot_time_secs(&self) -> procfs_core::ProcResult<u64> {
        Ok(0)
    }

    fn ticks_per_second(&self) -> u64 {
        100
    }

    fn page_size(&self) -> u64 {
        4096
    }

    fn is_little_endian(&self) -> bool {
        cfg!(target_endian = "little")
    }
}

/// A file of the namespace; empty if the protocol is not there.
fn open(name: &str) -> io::Result<Box<dyn Read>> {
    match File::open(format!("{FOLDER}/{name}")) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(Cursor::new([]))),
        Err(error) => Err(error),
    }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("a line of another form: {error}"))
}

fn blank(netns: u64, inode: u64, family: Family, kind: SocketKind) -> Sock {
    Sock {
        netns,
        inode,
        family,
        kind,
        protocol: "0".into(),
        state: SkState::Close,
        what: What::Socket,
        ends: None,
        unix: None,
        uid: None,
        waiting: 0,
        is_subflow: false,
    }
}

fn ends(local: SocketAddr, remote: SocketAddr) -> Option<Ends> {
    Some(Ends {
        local,
        remote: (remote.port() != 0).then_some(remote),
        v6only: None,
        device: 0,
    })
}

fn family(local: SocketAddr) -> Family {
    match local {
        SocketAddr::V4(_) => Family::Inet,
        SocketAddr::V6(_) => Family::Inet6,
    }
}

/// The TCP sockets of the namespace.
pub fn tcp(netns: u64) -> io::Result<Vec<Sock>> {
    let mut found = Vec::new();
    for name in ["tcp", "tcp6"] {
        let entries = TcpNetEntries::from_read(open(name)?, &Here).map_err(invalid)?;
        for entry in entries.0 {
            let state = tcp_state(&entry.state);
            let is_remnant = state == SkState::TimeWait;
            let kind = SocketKind::Stream;
            let mut sock = blank(netns, entry.inode, family(entry.local_address), kind);
            sock.protocol = Protocol::Tcp;
            if entry.inode == 0 {
                sock.what = without_file(&state, is_remnant);
            }
            sock.state = state;
            sock.ends = ends(entry.local_address, entry.remote_address);
            sock.uid = Some(entry.uid);
            sock.waiting = entry.rx_queue.into();
            found.push(sock);
        }
    }
    Ok(found)
}

fn tcp_state(state: &TcpState) -> SkState {
    match state {
        TcpState::Established => SkState::Established,
        TcpState::SynSent => SkState::SynSent,
        TcpState::SynRecv | TcpState::NewSynRecv => SkState::SynRecv,
        TcpState::FinWait1 => SkState::FinWait1,
        TcpState::FinWait2 => SkState::FinWait2,
        TcpState::TimeWait => SkState::TimeWait,
        TcpState::Close => SkState::Close,
        TcpState::CloseWait => SkState::CloseWait,
        TcpState::LastAck => SkState::LastAck,
        TcpState::Listen => SkState::Listen,
        TcpState::Closing => SkState::Closing,
    }
}

/// The UDP sockets of the namespace.
pub fn udp(netns: u64) -> io::Result<Vec<Sock>> {
    datagrams(netns, &["udp", "udp6"], Protocol::Udp, SocketKind::Dgram)
}

/// The raw and ping sockets of the namespace. They have no ports.
fn raw(netns: u64) -> io::Result<Vec<Sock>> {
    let mut found = datagrams(netns, &["raw", "raw6"], Protocol::Raw, SocketKind::Raw)?;
    let ping = datagrams(netns, &["icmp", "icmp6"], Protocol::Icmp, SocketKind::Dgram)?;
    found.extend(ping);
    for sock in &mut found {
        if let Some(ends) = &mut sock.ends {
            ends.local.set_port(0);
        }
    }
    Ok(found)
}

fn datagrams(
    netns: u64,
    names: &[&str],
    protocol: Protocol,
    kind: SocketKind,
) -> io::Result<Vec<Sock>> {
    let mut found = Vec::new();
    for name in names {
        let entries = UdpNetEntries::from_read(open(name)?, &Here).map_err(invalid)?;
        for entry in entries.0 {
            let family = family(entry.local_address);
            let mut sock = blank(netns, entry.inode, family, kind.clone());
            sock.protocol = protocol.clone();
            sock.state = match entry.state {
                UdpState::Established => SkState::Established,
                UdpState::Close => SkState::Close,
            };
            sock.ends = ends(entry.local_address, entry.remote_address);
            sock.uid = Some(entry.uid);
            sock.waiting = entry.rx_queue.into();
            found.push(sock);
        }
    }
    Ok(found)
}

/// The unix sockets of the namespace, without their peers and files.
pub fn unix(netns: u64) -> io::Result<Vec<Sock>> {
    let mut found = Vec::new();
    for line in BufReader::new(open("unix")?).split(b'\n').skip(1) {
        found.push(unix_line(netns, &line?).ok_or_else(|| invalid("/proc/net/unix"))?);
    }
    Ok(found)
}

/// A line of unix_seq_show().
fn unix_line(netns: u64, line: &[u8]) -> Option<Sock> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace().skip(3);
    let flags = u32::from_str_radix(words.next()?, 16).ok()?;
    let kind = match u32::from_str_radix(words.next()?, 16).ok()? {
        1 => SocketKind::Stream,
        2 => SocketKind::Dgram,
        5 => SocketKind::Seqpacket,
        other => SocketKind::Other(format!("type_{other}")),
    };
    let is_connected = words.next()? == "03";
    let inode = words.next()?.parse().ok()?;
    let mut sock = blank(netns, inode, Family::Unix, kind);
    // __SO_ACCEPTCON; SS_CONNECTED.
    sock.state = match (flags & (1 << 16) != 0, is_connected) {
        (true, _) => SkState::Listen,
        (false, true) => SkState::Established,
        (false, false) => SkState::Close,
    };
    let name = words.next().map(|name| match name.strip_prefix('@') {
        Some(rest) => [&[0], rest.replace('@', "\0").as_bytes()].concat(),
        None => name.as_bytes().to_vec(),
    });
    sock.unix = Some(Unix {
        name,
        ..Unix::default()
    });
    Some(sock)
}

/// The sockets of other families that /proc/net lists with their inodes.
pub fn others(netns: u64) -> io::Result<Vec<Sock>> {
    let mut found = raw(netns)?;
    for (name, family, kind) in [
        ("netlink", Family::Netlink, SocketKind::Raw),
        ("packet", Family::Packet, SocketKind::Raw),
    ] {
        for line in BufReader::new(open(name)?).lines().skip(1) {
            let line = line?;
            let inode = line.split_ascii_whitespace().next_back();
            // 0: a socket of the kernel's own.
            let inode = inode.and_then(|inode| inode.parse().ok());
            if let Some(inode) = inode.filter(|inode| *inode != 0) {
                found.push(blank(netns, inode, family.clone(), kind.clone()));
            }
        }
    }
    Ok(found)
}

/// Whether the namespace has SCTP, whose modules are not to be loaded for a question.
pub fn has_sctp() -> bool {
    std::path::Path::new(FOLDER).join("sctp").exists()
}

/// A connection that is translated (NAT): its addresses as the one end and as the other end has
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Source and destination, as the end has them that began the connection.
    pub before: (SocketAddr, SocketAddr),
    /// The same as the other end has them.
    pub after: (SocketAddr, SocketAddr),
}

/// The connections of the namespace that are translated; none if it does not track connections.
pub fn translated() -> io::Result<Vec<Translated>> {
    let file = BufReader::new(open("nf_conntrack")?);
    let mut found = Vec::new();
    for line in file.lines() {
        found.extend(translated_line(&line?));
    }
    Ok(found)
}

/// A line of ct_seq_show(): the addresses of both directions, if they are not each other's reverse.
fn translated_line(line: &str) -> Option<Translated> {
    let values = |key: &str| {
        let words = line.split_ascii_whitespace();
        let mut values = words.filter_map(|word| word.strip_prefix(key));
        Some((values.next()?, values.next()?))
    };
    let (sources, targets) = (values("src=")?, values("dst=")?);
    let (sports, dports) = (values("sport=")?, values("dport=")?);
    let address =
        |ip: &str, port: &str| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
    let before = (address(sources.0, sports.0)?, address(targets.0, dports.0)?);
    // The answers go from the other end, as it has its own address, to the address that it sees.
    let after = (address(targets.1, dports.1)?, address(sources.1, sports.1)?);
    (before != after).then_some(Translated { before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_unix_sockets() {
        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 20567 /run/a.sock";
        let sock = unix_line(4, line).unwrap();
        assert_eq!(
            (sock.netns, sock.inode, &sock.state),
            (4, 20567, &SkState::Listen)
        );
        assert_eq!(
            sock.unix.unwrap().name.as_deref(),
            Some(&b"/run/a.sock"[..])
        );
        let line = b"0000000000000000: 00000003 00000000 00000000 0005 03 20568 @a@@";
        let sock = unix_line(4, line).unwrap();
        assert_eq!(
            (sock.kind, sock.state),
            (SocketKind::Seqpacket, SkState::Established)
        );
        assert_eq!(sock.unix.unwrap().name.as_deref(), Some(&b"\0a\0\0"[..]));
        assert_eq!(unix_line(4, b"0000000000000000: 00000003"), None);
    }

    #[test]
    fn connections_that_are_translated() {
        let line = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.2 dst=192.0.2.1 \
                    sport=40000 dport=80 src=172.17.0.2 dst=10.0.0.2 sport=8080 dport=40000 \
                    [ASSURED] mark=0 zone=0 use=2";
        let found = translated_line(line).unwrap();
        let of = |address: &str| address.parse::<SocketAddr>().unwrap();
        assert_eq!(found.before, (of("10.0.0.2:40000"), of("192.0.2.1:80")));
        assert_eq!(found.after, (of("10.0.0.2:40000"), of("172.17.0.2:8080")));
        let plain = "ipv4     2 udp      17 29 src=10.0.0.2 dst=10.0.0.3 sport=1 dport=2 \
                     src=10.0.0.3 dst=10.0.0.2 sport=2 dport=1";
        assert_eq!(translated_line(plain), None);
        assert_eq!(
            translated_line("ipv4 2 icmp 1 29 src=10.0.0.2 dst=10.0.0.3"),
            None
        );
    }
}
