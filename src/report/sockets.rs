// SPDX-License-Identifier: GPL-2.0

//! The report `sockets`: each descriptor of a process that is a socket. `skbs` adds the queues to it.

#![deny(unsafe_code)]

use super::{skbs::Queues, text::Line, text::Text, Fault, Step, CHUNK_TEXT};
use crate::{
    bindings,
    object::{
        id::Id,
        process::{interrupted, Process},
        skb::{QueueName, QueueTotals},
        socket::{Files, OpenFile, SockState, Socket, UNIX_PATH_MAX},
    },
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use kernel::{fmt::Write, prelude::*, str::Formatter};

/// How many descriptors a chunk looks at.
const CHUNK_FDS: usize = 64;

/// A unix socket's path, or an abstract name.
struct UnixName {
    path: [u8; UNIX_PATH_MAX],
    len: usize,
}

impl Default for UnixName {
    fn default() -> Self {
        Self {
            path: [0; UNIX_PATH_MAX],
            len: 0,
        }
    }
}

/// A socket as it was when it was looked at: plain values.
struct Seen {
    fd: u32,
    id: Id,
    inode: usize,
    references: usize,
    state: SockState,
    /// The socket's user did not let go of it.
    busy: bool,
    local: UnixName,
    remote: UnixName,
}

/// The report under way.
pub(crate) struct Walk {
    next: u32,
    /// The report is `skbs`.
    queues: Option<KBox<Queues>>,
    fds: u64,
    sockets: u64,
    busy: u64,
    cut: u64,
}

impl Walk {
    /// Begins, if the process has files.
    pub(crate) fn new(process: &Process, queues: Option<KBox<Queues>>) -> Result<Self, Fault> {
        Files::of(process)?;
        Ok(Self {
            next: 0,
            queues,
            fds: 0,
            sockets: 0,
            busy: 0,
            cut: 0,
        })
    }

    /// Tells the next few descriptors.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if let Some(queues) = &mut self.queues {
            if queues.tell(text)? == Step::More {
                return Ok(Step::More);
            }
        }
        let mut files = Files::of(process)?;
        for _ in 0..CHUNK_FDS {
            if text.bytes().len() >= CHUNK_TEXT {
                break;
            }
            if interrupted() {
                return Err(EINTR.into());
            }
            let Some((fd, file)) = files.next(self.next) else {
                if files.are_stale() {
                    files = Files::of(process)?;
                    continue;
                }
                self.summary(text)?;
                return Ok(Step::Done);
            };
            self.next = fd + 1;
            self.fds += 1;
            let Some(socket) = file.socket() else {
                continue;
            };
            self.sockets += 1;
            let (mut seen, missed) = look(fd, &file, &socket)?;
            if let Some(queues) = &mut self.queues {
                seen.busy = seen.busy || !queues.look(fd, &socket)?;
            } else {
                self.cut += u64::from(missed);
            }
            seen.tell(text)?;
            if seen.busy {
                self.busy += 1;
            } else if let Some(queues) = &mut self.queues {
                if queues.tell(text)? == Step::More {
                    break;
                }
            }
        }
        Ok(Step::More)
    }

    fn summary(&self, text: &mut Text) -> Result {
        let name: &[u8] = match self.queues {
            Some(_) => b"skbs",
            None => b"sockets",
        };
        let mut line = text
            .record("summary")
            .word("report", name)
            .number("fds", self.fds)
            .number("sockets", self.sockets);
        let mut cut = self.cut;
        if let Some(queues) = &self.queues {
            line = line
                .number("queues", queues.queues)
                .number("skbs", queues.skbs);
            cut += queues.cut;
        }
        line.number("busy", self.busy).number("cut", cut).end()
    }
}

/// Looks at a socket under its locks, one after the other. Also tells how many packets it passed over.
fn look(fd: u32, file: &OpenFile, socket: &Socket<'_>) -> Result<(Seen, u32), Fault> {
    let mut seen = Seen {
        fd,
        id: socket.id(),
        inode: file.inode(),
        references: file.references(),
        state: socket.ident(),
        busy: false,
        local: UnixName::default(),
        remote: UnixName::default(),
    };
    let state = &mut seen.state;
    let is_unix = u32::from(state.family) == bindings::AF_UNIX;
    let mut missed = 0;
    if let Some(unix) = socket.lock_unix() {
        seen.local.len = unix.local(&mut seen.local.path);
        seen.remote.len = unix.remote(&mut seen.remote.path).unwrap_or(0);
        state.inq = unix.stream_unread();
    }
    match socket.lock() {
        Ok(guard) => guard.state(state),
        Err(err) if err == EBUSY => {
            seen.busy = true;
            return Ok((seen, 0));
        }
        Err(err) => return Err(err.into()),
    }
    if state.is_tcp != 0 {
        missed += state.tx_missed;
        return Ok((seen, missed));
    }

    let totals = |name| {
        socket
            .queue(name)
            .map_or(QueueTotals::default(), |guard| guard.totals())
    };
    let receive = totals(QueueName::Receive);
    let reader = totals(QueueName::Reader);
    missed += receive.missed + reader.missed;
    state.rx_packets = receive.packets + reader.packets;
    state.rx_bytes = receive.bytes + reader.bytes;
    let first = if reader.packets > 0 {
        reader.first
    } else {
        receive.first
    };
    let kind = Type(state.type_.into());
    let listens = u32::from(state.state) == bindings::RAVEL_LISTEN;
    let family = u32::from(state.family);
    let is_inet = family == bindings::AF_INET || family == bindings::AF_INET6;
    if is_unix {
        // A listener's queue holds connections, not data.
        if listens {
            state.rx_bytes = 0;
            state.inq = -1;
        } else if kind == Type::STREAM {
            state.rx_bytes = u32::try_from(state.inq).unwrap_or(0);
        } else {
            state.inq = match kind {
                Type::SEQPACKET => state.rx_bytes.into(),
                _ => first.into(),
            };
        }
        state.outq = state.wmem.into();
    } else if state.is_udp != 0 || (is_inet && kind == Type::RAW) || family == bindings::AF_PACKET {
        state.inq = first.into();
        state.outq = state.wmem.into();
    }
    Ok((seen, missed))
}

/// `SOCK_STREAM` and the like.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Type(u32);

impl Type {
    const STREAM: Self = Self(1);
    const RAW: Self = Self(3);
    const SEQPACKET: Self = Self(5);

    fn tell<'t>(self, line: Line<'t>) -> Line<'t> {
        const NAMES: [&str; 6] = ["stream", "dgram", "raw", "rdm", "seqpacket", "dccp"];
        match self.0 {
            n @ 1..=6 => line.word("type", NAMES[n as usize - 1].as_bytes()),
            10 => line.word("type", b"packet"),
            n => line.numbered("type", "type_", n.into()),
        }
    }
}

fn tell_family(line: Line<'_>, family: u16) -> Line<'_> {
    let name: &[u8] = match u32::from(family) {
        bindings::AF_UNIX => b"unix",
        bindings::AF_INET => b"inet",
        bindings::AF_INET6 => b"inet6",
        bindings::AF_NETLINK => b"netlink",
        bindings::AF_PACKET => b"packet",
        bindings::AF_ALG => b"alg",
        bindings::AF_VSOCK => b"vsock",
        bindings::AF_XDP => b"xdp",
        n => return line.numbered("family", "af_", n.into()),
    };
    line.word("family", name)
}

fn tell_protocol(line: Line<'_>, family: u16, protocol: u16) -> Line<'_> {
    let family = u32::from(family);
    if family != bindings::AF_INET && family != bindings::AF_INET6 {
        return line.number("protocol", protocol.into());
    }
    let name: &[u8] = match protocol {
        1 => b"icmp",
        6 => b"tcp",
        17 => b"udp",
        58 => b"icmpv6",
        132 => b"sctp",
        136 => b"udplite",
        255 => b"raw",
        262 => b"mptcp",
        n => return line.number("protocol", n.into()),
    };
    line.word("protocol", name)
}

fn tell_sk_state(line: Line<'_>, state: u8) -> Line<'_> {
    // include/net/tcp_states.h
    const NAMES: [&str; 13] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
        "BOUND_INACTIVE",
    ];
    match usize::from(state).checked_sub(1).and_then(|i| NAMES.get(i)) {
        Some(name) => line.word("sk_state", name.as_bytes()),
        None => line.numbered("sk_state", "state_", state.into()),
    }
}

fn tell_socket_state(line: Line<'_>, state: u8) -> Line<'_> {
    // include/uapi/linux/net.h
    const NAMES: [&str; 5] = [
        "free",
        "unconnected",
        "connecting",
        "connected",
        "disconnecting",
    ];
    match NAMES.get(usize::from(state)) {
        Some(name) => line.word("socket_state", name.as_bytes()),
        None => line.numbered("socket_state", "state_", state.into()),
    }
}

/// An address as a string: a unix path with `@` for the 0 byte of an abstract one.
fn tell_unix<'t>(line: Line<'t>, key: &str, name: &UnixName) -> Line<'t> {
    let mut path = name.path;
    if name.len > 0 && path[0] == 0 {
        path[0] = b'@';
    }
    line.string(key, &path[..name.len])
}

fn tell_inet<'t>(
    line: Line<'t>,
    key: &str,
    family: u16,
    address: &[u8; 16],
    port: u16,
) -> Line<'t> {
    let ip: IpAddr = if u32::from(family) == bindings::AF_INET {
        let [a, b, c, d, ..] = *address;
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from(*address).into()
    };
    let mut text = [0u8; 64];
    let mut to = Formatter::new(&mut text);
    // The longest address with its port has 58 bytes.
    let _ = write!(to, "{}", SocketAddr::new(ip, port));
    let len = to.bytes_written();
    line.string(key, &text[..len])
}

impl Seen {
    fn tell(&self, text: &mut Text) -> Result {
        let state = &self.state;
        let mut line = text
            .record("socket")
            .number("fd", self.fd.into())
            .id("id", self.id)
            .number("inode", self.inode as u64)
            .number("netns", state.netns);
        line = tell_family(line, state.family);
        line = Type(state.type_.into()).tell(line);
        line = tell_protocol(line, state.family, state.protocol);
        line = line
            .number("file_refs", self.references as u64)
            .flag("busy", self.busy);
        if self.busy {
            return line.end();
        }
        line = tell_socket_state(line, state.socket_state);
        line = tell_sk_state(line, state.state);
        line = line.word(
            "shutdown",
            match state.shutdown {
                0 => b"none",
                1 => b"RD",
                2 => b"WR",
                _ => b"RDWR",
            },
        );
        if state.has_address != 0 {
            line = tell_inet(line, "local", state.family, &state.local, state.local_port);
            line = if state.has_peer != 0 {
                tell_inet(
                    line,
                    "remote",
                    state.family,
                    &state.remote,
                    state.remote_port,
                )
            } else {
                line.string("remote", b"")
            };
        } else {
            line = tell_unix(line, "local", &self.local);
            line = tell_unix(line, "remote", &self.remote);
        }
        line = if state.lingers != 0 {
            line.number("linger", state.linger)
        } else {
            line.word("linger", b"off")
        };
        line.number("err", state.err.into())
            .number("soft_err", state.soft_err.into())
            .number("rx_bytes", state.rx_bytes.into())
            .number("rx_packets", state.rx_packets.into())
            .number("tx_bytes", state.tx_bytes.into())
            .number("tx_packets", state.tx_packets.into())
            .number("wmem", state.wmem.into())
            .signed("inq", state.inq)
            .signed("outq", state.outq)
            .end()
    }
}
