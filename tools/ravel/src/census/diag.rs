//! The sockets of a network namespace, from the kernel's own lists (sock_diag).

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, AF_UNIX, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM,
    SOCK_DIAG_BY_FAMILY, SOCK_SEQPACKET, SOCK_STREAM, UNIX_DIAG_ICONS, UNIX_DIAG_NAME,
    UNIX_DIAG_PEER, UNIX_DIAG_RQLEN, UNIX_DIAG_VFS,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetRequestBuffer, InetResponse, SocketId, StateFlags, Timer,
};
use netlink_packet_sock_diag::unix::{
    self, ShowFlags, UnixRequest, UnixResponseBuffer, UnixResponseHeader,
};
use netlink_packet_utils::nla::{DefaultNla, NlaBuffer, NlasIterator};
use netlink_packet_utils::parsers::parse_u32;
use netlink_packet_utils::{DecodeError, Emitable, Parseable};
use ravel_records::{Family, Protocol, SkState, SocketKind};

use super::netlink::{self, Netlink};
use super::socket::{Ends, Sock, Unix, What, without_file};

/// IPPROTO_MPTCP, which does not fit into the request and goes with it as an attribute.
const IPPROTO_MPTCP: u32 = 262;
/// INET_DIAG_REQ_PROTOCOL of `linux/inet_diag.h`.
const REQ_PROTOCOL: u16 = 3;
/// INET_DIAG_ULP_INFO, and INET_ULP_INFO_MPTCP in it.
const ULP_INFO: u16 = 19;
const ULP_INFO_MPTCP: u16 = 3;
/// All states, with TCP_NEW_SYN_RECV and TCP_BOUND_INACTIVE.
const ALL_STATES: u32 = (1 << 14) - 1;

/// A request for the sockets of a protocol: the crate's, with states and an attribute that it does
/// not know.
struct Request {
    inet: InetRequest,
    protocol: Option<DefaultNla>,
}

impl Request {
    fn new(family: u8, protocol: u32) -> Self {
        let id = match family {
            AF_INET => SocketId::new_v4(),
            _ => SocketId::new_v6(),
        };
        let attribute = DefaultNla::new(REQ_PROTOCOL, protocol.to_ne_bytes().to_vec());
        Self {
            inet: InetRequest {
                family,
                protocol: u8::try_from(protocol).unwrap_or(IPPROTO_TCP),
                // With it comes what TCP sockets are used for, such as MPTCP.
                extensions: ExtensionFlags::INFO,
                states: StateFlags::all(),
                socket_id: id,
            },
            protocol: (protocol > u32::from(u8::MAX)).then_some(attribute),
        }
    }

    fn attributes(&self) -> &[DefaultNla] {
        self.protocol.as_slice()
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.inet.buffer_len() + self.attributes().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, tail) = buffer.split_at_mut(self.inet.buffer_len());
        self.inet.emit(head);
        InetRequestBuffer::new(head).set_states(ALL_STATES);
        self.attributes().emit(tail);
    }
}

/// The protocols that are asked for, each for both families.
pub const PROTOCOLS: [(Protocol, u32); 4] = [
    (Protocol::Tcp, IPPROTO_TCP as u32),
    (Protocol::Udp, IPPROTO_UDP as u32),
    (Protocol::Mptcp, IPPROTO_MPTCP),
    (Protocol::Sctp, IPPROTO_SCTP as u32),
];

/// All sockets of a protocol in the namespace of a connection to sock_diag. Fails with ENOENT if
/// the kernel lacks the module that lists them.
pub fn inet(diag: &mut Netlink, netns: u64, of: &(Protocol, u32)) -> io::Result<Vec<Sock>> {
    let (protocol, number) = of;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = Request::new(family, *number);
        diag.ask(NLM_F_DUMP, request, |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                found.push(inet_socket(netns, protocol, &response));
            }
        })?;
    }
    Ok(found)
}

fn inet_socket(netns: u64, protocol: &Protocol, response: &InetResponse) -> Sock {
    let head = &response.header;
    let id = &head.socket_id;
    let local = SocketAddr::new(id.source_address, id.source_port);
    let remote = SocketAddr::new(id.destination_address, id.destination_port);
    let state = match (protocol, head.state) {
        // Of sockets that do not listen and are in no connection, only those are listed that are
        // bound.
        (Protocol::Tcp, 7) => SkState::BoundInactive,
        (_, number) => netlink::state(number),
    };
    let is_remnant = matches!(head.timer, Some(Timer::TimeWait));
    let mut sock = Sock {
        netns,
        inode: head.inode.into(),
        family: match head.family {
            AF_INET => Family::Inet,
            _ => Family::Inet6,
        },
        kind: match protocol {
            Protocol::Udp => SocketKind::Dgram,
            _ => SocketKind::Stream,
        },
        protocol: protocol.clone(),
        what: match (protocol, head.inode) {
            (Protocol::Tcp, 0) => without_file(&state, is_remnant),
            _ => What::Socket,
        },
        state,
        ends: Some(Ends {
            local,
            remote: (id.destination_port != 0).then_some(remote),
            v6only: None,
            device: id.interface_id,
        }),
        unix: None,
        uid: Some(head.uid),
        waiting: head.recv_queue.into(),
        is_subflow: false,
    };
    for attribute in &response.nlas {
        match attribute {
            Nla::SkV6Only(only) => {
                if let Some(ends) = &mut sock.ends {
                    ends.v6only = Some(*only);
                }
            }
            Nla::Other(other) => {
                let (kind, value) = content(other);
                if kind == ULP_INFO {
                    sock.is_subflow = has(&value, ULP_INFO_MPTCP);
                }
            }
            _ => {}
        }
    }
    sock
}

/// The kind of an attribute that the crate does not know, and its value.
fn content(attribute: &DefaultNla) -> (u16, Vec<u8>) {
    use netlink_packet_utils::nla::Nla;

    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    (attribute.kind(), value)
}

/// Whether a value has a nested attribute of a kind.
fn has(value: &[u8], kind: u16) -> bool {
    let is_wanted = |attribute: NlaBuffer<&[u8]>| attribute.kind() == kind;
    NlasIterator::new(value)
        .filter_map(Result::ok)
        .any(is_wanted)
}

/// All unix sockets of the namespace, but those that wait for accept().
pub fn unix(diag: &mut Netlink, netns: u64) -> io::Result<Vec<Sock>> {
    let request = SockDiagMessage::UnixRequest(UnixRequest {
        state_flags: unix::StateFlags::all(),
        inode: 0,
        show_flags: ShowFlags::NAME
            | ShowFlags::VFS
            | ShowFlags::PEER
            | ShowFlags::ICONS
            | ShowFlags::RQLEN,
        cookie: [0xff; 8],
    });
    let request = AllStates(request);
    let mut found = Vec::new();
    diag.ask(NLM_F_DUMP, request, |UnixAnswer(mut sock)| {
        sock.netns = netns;
        found.push(sock);
    })?;
    Ok(found)
}

/// A request for unix sockets in all states: those of datagrams have one that the crate does not
/// know.
struct AllStates(SockDiagMessage);

impl NetlinkSerializable for AllStates {
    fn message_type(&self) -> u16 {
        self.0.message_type()
    }

    fn buffer_len(&self) -> usize {
        NetlinkSerializable::buffer_len(&self.0)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.0.serialize(buffer);
        unix::UnixRequestBuffer::new(buffer).set_state_flags(ALL_STATES);
    }
}

/// A unix socket of the answer. The crate's own type takes names for text, without the NUL at their
/// end.
struct UnixAnswer(Sock);

impl NetlinkDeserializable for UnixAnswer {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let buffer = UnixResponseBuffer::new_checked(payload)?;
        if buffer.family() != AF_UNIX {
            return Err("not a unix socket".into());
        }
        let head = UnixResponseHeader::parse(&buffer)?;
        let mut unix = Unix::default();
        let mut waiting = 0;
        for attribute in buffer.nlas() {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                UNIX_DIAG_NAME => unix.name = Some(name(value)),
                UNIX_DIAG_VFS => unix.file = pair(value),
                UNIX_DIAG_PEER => unix.peer = Some(parse_u32(value)?.into()),
                UNIX_DIAG_ICONS => {
                    let inodes = value.chunks_exact(4).flat_map(parse_u32);
                    unix.pending = inodes.map(u64::from).collect();
                }
                UNIX_DIAG_RQLEN => waiting = pair(value).map_or(0, |(length, _)| length.into()),
                _ => {}
            }
        }
        Ok(Self(Sock {
            netns: 0,
            inode: head.inode.into(),
            family: Family::Unix,
            kind: match head.kind {
                SOCK_STREAM => SocketKind::Stream,
                SOCK_DGRAM => SocketKind::Dgram,
                SOCK_SEQPACKET => SocketKind::Seqpacket,
                other => SocketKind::Other(format!("type_{other}")),
            },
            protocol: "0".into(),
            state: netlink::state(head.state),
            what: What::Socket,
            ends: None,
            unix: Some(unix),
            uid: None,
            waiting,
            is_subflow: false,
        }))
    }
}

/// A name: a path ends in a NUL, an abstract one begins with one.
fn name(value: &[u8]) -> Vec<u8> {
    match value.first() {
        Some(0) => value.to_vec(),
        _ => value.strip_suffix(&[0]).unwrap_or(value).to_vec(),
    }
}

/// Two numbers.
fn pair(value: &[u8]) -> Option<(u32, u32)> {
    let (one, rest) = value.split_first_chunk()?;
    Some((
        u32::from_ne_bytes(*one),
        u32::from_ne_bytes(*rest.first_chunk()?),
    ))
}
