//! A socket as the kernel's lists name it.

use std::net::{IpAddr, SocketAddr};

use ravel_records::{Family, Protocol, SkState, SocketKind, Text};

/// A socket, or what is left of one, of any network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sock {
    /// Inode of its network namespace.
    pub netns: u64,
    /// Its inode; 0 if no open file has it.
    pub inode: u64,
    /// Its family.
    pub family: Family,
    /// Its type.
    pub kind: SocketKind,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: SkState,
    /// What it is, if it is not a socket that an open file has.
    pub what: What,
    /// Inet: the addresses at its ends.
    pub ends: Option<Ends>,
    /// Unix: its name and its peer.
    pub unix: Option<Unix>,
    /// The user who created it.
    pub uid: Option<u32>,
    /// Bytes, or connections of a listener, that wait to be read or accepted.
    pub waiting: u64,
    /// It is a subflow of an MPTCP socket.
    pub is_subflow: bool,
}

/// What an entry of the kernel's lists is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A socket that an open file, or the kernel, has.
    Socket,
    /// `inet_timewait_sock`: what is left of a closed connection, in TIME_WAIT or FIN_WAIT2.
    Remnant,
    /// `request_sock`: a connection in its handshake.
    Request,
    /// A connection that waits for accept().
    NotAccepted,
    /// A connection that its process has closed, and that the kernel brings to its end.
    Orphan,
}

/// Both ends of an inet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// What it is bound to.
    pub local: SocketAddr,
    /// What it is connected to.
    pub remote: Option<SocketAddr>,
    /// IPV6_V6ONLY of an IPv6 socket; none if it is not known.
    pub v6only: Option<bool>,
    /// Index of the device that it is bound to; 0 for none.
    pub device: u32,
}

/// What a unix socket has instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unix {
    /// Its name, as bind() was given it; an abstract one begins with a NUL. None if it has no name.
    pub name: Option<Vec<u8>>,
    /// Inode and device of the file that it is bound to, as the kernel numbers devices.
    pub file: Option<(u32, u32)>,
    /// Inode of the socket that it is connected to; 0 if that has none yet.
    pub peer: Option<u64>,
    /// A listener: inodes of the sockets whose connections wait for accept().
    pub pending: Vec<u64>,
}

impl Sock {
    /// Whether it is a TCP, MPTCP or SCTP socket, whose states are TCP's.
    pub fn is_stream(&self) -> bool {
        matches!(
            self.protocol,
            Protocol::Tcp | Protocol::Mptcp | Protocol::Sctp
        )
    }

    /// Whether it accepts connections.
    pub fn listens(&self) -> bool {
        self.state == SkState::Listen
    }

    /// The port that it is bound to.
    pub fn port(&self) -> Option<u16> {
        self.ends.map(|ends| ends.local.port())
    }

    /// The name or address that it is bound to, as reports write it.
    pub fn local(&self) -> Text {
        match (&self.ends, &self.unix) {
            (Some(ends), _) => ends.local.to_string().as_str().into(),
            (None, Some(unix)) => unix.name.as_deref().map_or_else(Text::default, written),
            (None, None) => Text::default(),
        }
    }

    /// The address that it is connected to, likewise.
    pub fn remote(&self) -> Text {
        let remote = self.ends.and_then(|ends| ends.remote);
        remote.map_or_else(Text::default, |remote| remote.to_string().as_str().into())
    }
}

/// The name of a unix socket as reports write it: with `@` for the first byte of an abstract one.
fn written(name: &[u8]) -> Text {
    match name.split_first() {
        Some((0, rest)) => [b"@", rest].concat().into(),
        _ => name.into(),
    }
}

/// What a TCP entry without an inode is, by its state and whether the timer is that of a
/// `inet_timewait_sock`.
pub fn without_file(state: &SkState, is_remnant: bool) -> What {
    match state {
        _ if is_remnant => What::Remnant,
        SkState::SynRecv | SkState::NewSynRecv => What::Request,
        SkState::Established | SkState::CloseWait => What::NotAccepted,
        SkState::Listen | SkState::Close | SkState::BoundInactive => What::Socket,
        _ => What::Orphan,
    }
}

/// An address without the IPv6 form of an IPv4 one.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address is that of a namespace's own loopback device.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
