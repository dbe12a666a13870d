//! What is wrong with one end of a connection, or with one socket, by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ravel_records::{
    Family, Fin, Protocol, Shutdown, SkState, Socket, SocketDetail, SocketKind, TcpTimer, Timer,
};

use super::{Evidence, Full, Key, OtherEnd, Queue, Relay, Stuck, Why};
use crate::connections::{Addresses, Connection};
use crate::sweep::{Held, Sweep};
use crate::view::remarks::is_gone;
use crate::view::sockets::proto;

/// The state of a TCP connection's end that waits for the peer's acknowledgement.
pub(super) fn is_closing(state: &SkState) -> bool {
    matches!(
        state,
        SkState::FinWait1 | SkState::LastAck | SkState::Closing
    )
}

fn is_inet(socket: &Socket) -> bool {
    matches!(socket.family, Family::Inet | Family::Inet6)
}

fn is_tcp(socket: &Socket) -> bool {
    socket.protocol == Protocol::Tcp && is_inet(socket)
}

fn is_mptcp(socket: &Socket) -> bool {
    socket.protocol == Protocol::Mptcp && is_inet(socket)
}

/// A socket that receives packets, and drops them or lets senders wait where there is no more room.
fn is_datagram(socket: &Socket) -> bool {
    let packets = matches!(socket.r#type, SocketKind::Dgram | SocketKind::Raw);
    let families = matches!(
        socket.family,
        Family::Inet | Family::Inet6 | Family::Unix | Family::Netlink | Family::Packet
    );
    // SCTP has associations, whatever its type.
    packets && families && socket.protocol != Protocol::Sctp
}

/// Whether there are rules for a kind of socket.
fn is_judged(socket: &Socket) -> bool {
    is_tcp(socket) || is_mptcp(socket) || is_pair(socket) || is_datagram(socket)
}

/// A connection of unix sockets.
fn is_pair(socket: &Socket) -> bool {
    let pair = matches!(socket.r#type, SocketKind::Stream | SocketKind::Seqpacket);
    socket.family == Family::Unix && pair
}

pub(super) fn addresses(socket: &Socket, detail: &SocketDetail) -> Option<Addresses> {
    Some(Addresses::new(
        socket.netns,
        detail.local.socket_address()?,
        detail.remote.socket_address()?,
    ))
}

/// What is known, by what it is looked for.
pub(super) struct Found<'a> {
    sweep: &'a Sweep,
    evidence: &'a Evidence,
    /// Connections that no descriptor leads to.
    loose: BTreeMap<Addresses, &'a Connection>,
    /// Sockets at the other ends of these.
    ends: BTreeMap<Addresses, &'a Held>,
    /// Those that have closed, and whose other end nobody has accepted: told with the listener.
    gone_early: BTreeSet<Addresses>,
    /// Open MPTCP connections, and who has them: TCP connections with these addresses are subflows.
    mptcp: BTreeMap<Addresses, Vec<u32>>,
    pub(super) busy: u64,
}

impl<'a> Found<'a> {
    pub(super) fn new(sweep: &'a Sweep, loose: &'a [Connection], evidence: &'a Evidence) -> Self {
        let loose: BTreeMap<_, _> = loose.iter().map(|of| (of.addresses, of)).collect();
        let mut found = Self {
            sweep,
            evidence,
            loose,
            ends: BTreeMap::new(),
            gone_early: BTreeSet::new(),
            mptcp: BTreeMap::new(),
            busy: 0,
        };
        for held in &sweep.sockets {
            let socket = &held.socket;
            let Some(detail) = &socket.detail else {
                found.busy += 1;
                continue;
            };
            if is_mptcp(socket) {
                let pids = held.holders.iter().map(|holder| holder.pid).collect();
                found
                    .mptcp
                    .extend(addresses(socket, detail).map(|here| (here, pids)));
            }
            if !is_tcp(socket) && !is_mptcp(socket) {
                continue;
            }
            let local = detail.local.socket_address();
            for waiting in &socket.waiting {
                let remote = waiting.remote.socket_address();
                if let (Some(local), Some(remote), SkState::CloseWait) =
                    (local, remote, &waiting.sk_state)
                {
                    found.gone_early.insert(early(socket.netns, remote, local));
                }
            }
            if found.loose.is_empty() {
                continue;
            }
            if let Some(here) = addresses(socket, detail) {
                if found.loose.contains_key(&here.reversed()) {
                    found.ends.insert(here, held);
                }
            }
        }
        found
    }

    /// Whether the end at these addresses is one whose other end waits in a listener's queue.
    fn is_early(&self, here: &Addresses) -> bool {
        self.gone_early
            .contains(&early(here.netns, here.local, here.remote))
    }

    /// Whether a TCP connection belongs to an open MPTCP connection.
    fn is_subflow(&self, of: &Connection) -> bool {
        self.mptcp.contains_key(&of.addresses) || self.mptcp.contains_key(&of.addresses.reversed())
    }

    /// Open connections that nothing is known to hold, and with which nothing is wrong.
    pub(super) fn kernel_connections(&self) -> u64 {
        let open = |of: &&&Connection| of.inode != 0 && of.state == SkState::Established;
        let connections = self.loose.values().filter(open);
        connections
            .filter(|of| !self.is_subflow(of) && self.loose(of).is_none())
            .filter(|of| !self.evidence.is_held(of.inode))
            .count() as u64
    }

    /// Sockets of kinds for which there are no rules, by kind.
    pub(super) fn not_judged(&self) -> BTreeMap<String, u64> {
        let mut kinds = BTreeMap::new();
        let sockets = self.sweep.sockets.iter().map(|held| &held.socket);
        for socket in sockets.filter(|socket| !is_judged(socket)) {
            let kind = proto(&socket.family, &socket.r#type, &socket.protocol);
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    pub(super) fn judge(&self, held: &Held) -> Option<Stuck> {
        let socket = &held.socket;
        let detail = socket.detail.as_ref()?;
        let why = match () {
            () if is_tcp(socket) => self.judge_tcp(held, detail)?,
            () if is_mptcp(socket) => self.judge_mptcp(held, detail)?,
            () if is_pair(socket) => self.judge_pair(socket, detail)?,
            () if is_datagram(socket) => self.judge_datagram(socket, detail)?,
            () => return None,
        };
        let addresses = addresses(socket, detail);
        // It was closed after it was looked at: the namespace's word is the later one.
        if let Some(loose) = addresses.and_then(|here| self.loose.get(&here)) {
            if loose.inode == 0 {
                return None;
            }
        }
        let other_end = self.other_end(detail, addresses);
        let tcp = detail.tcp.as_ref();
        let silent_ms = tcp.and_then(|tcp| match tcp.silent_ms {
            Timer::Ms(ms) => Some(ms),
            Timer::Off => None,
        });
        let gone = socket.waiting.iter().filter(|of| is_gone(socket, of));
        let mut stuck = Stuck {
            why,
            severity: why.severity(),
            family: socket.family.clone(),
            r#type: socket.r#type.clone(),
            protocol: socket.protocol.clone(),
            netns: socket.netns,
            inode: socket.inode,
            local: detail.local.clone(),
            remote: detail.remote.clone(),
            sk_state: detail.sk_state.clone(),
            shutdown: Some(detail.shutdown.clone()),
            unread: detail.rx_bytes,
            unacknowledged: detail.tx_bytes,
            waiting: matches!(why, Why::NotAccepted | Why::BacklogFull).then(|| Queue {
                connections: detail.rx_packets,
                closed: gone.count() as u64,
            }),
            full: matches!(why, Why::QueueFull | Why::BacklogFull).then(|| full(socket, detail)),
            blocked: self.evidence.blocked(self.sweep, held),
            silent_ms,
            holders: held.holders.clone(),
            others: Vec::new(),
            candidates: Vec::new(),
            relays: Vec::new(),
            references: u64::try_from(socket.file_refs).ok(),
            unnamed: None,
            blame: Vec::new(),
            ends_ms: None,
            waits_at_least: false,
            other_end,
            text: None,
            key: Key::Socket((socket.id, socket.inode)),
            socket: Some(socket.clone()),
        };
        let theirs = || {
            let holders = stuck.other_end.as_ref().map(|end| end.holders.clone());
            holders.unwrap_or_default()
        };
        stuck.blame = match why {
            Why::HalfClosed if is_inet(socket) => theirs(),
            Why::Unacknowledged | Why::NoRoom => theirs(),
            _ => stuck.holders.clone(),
        };
        Some(stuck)
    }

    fn judge_tcp(&self, held: &Held, detail: &SocketDetail) -> Option<Why> {
        let socket = &held.socket;
        let tcp = detail.tcp.as_ref()?;
        let peer = self.sweep.peer(detail);
        let peer_detail = peer.and_then(|peer| peer.socket.detail.as_ref());
        Some(match &detail.sk_state {
            SkState::Listen => return judge_listener(socket, detail),
            SkState::CloseWait => Why::CloseWait,
            // Of a connection of which both ends are here, the one that has to act is shown.
            SkState::FinWait2 => {
                if peer_detail.is_some_and(|peer| peer.sk_state == SkState::CloseWait)
                    || addresses(socket, detail).is_some_and(|here| self.is_early(&here))
                {
                    return None;
                }
                Why::HalfClosed
            }
            state if is_closing(state) => Why::Unacknowledged,
            SkState::Close => {
                return (tcp.fin == Fin::Unknown && detail.shutdown == Shutdown::RdWr)
                    .then_some(Why::Over);
            }
            SkState::Established => {
                if detail.unread {
                    return Some(Why::Unread);
                }
                if tcp.timer == TcpTimer::Probe && tcp.unsent > 0 {
                    return match peer_detail.is_some_and(|peer| peer.unread) {
                        true => None,
                        false => Some(Why::NoRoom),
                    };
                }
                return is_shared(held).then_some(Why::Shared);
            }
            _ => return None,
        })
    }

    /// The connection, whatever its subflows do. What TCP has in a record is not known of it.
    fn judge_mptcp(&self, held: &Held, detail: &SocketDetail) -> Option<Why> {
        Some(match &detail.sk_state {
            SkState::Listen => return judge_listener(&held.socket, detail),
            SkState::CloseWait => Why::CloseWait,
            SkState::FinWait2 => Why::HalfClosed,
            state if is_closing(state) => Why::Unacknowledged,
            SkState::Close => return (detail.shutdown == Shutdown::RdWr).then_some(Why::Over),
            SkState::Established if detail.rx_packets > 0 => Why::Unread,
            SkState::Established => return is_shared(held).then_some(Why::Shared),
            _ => return None,
        })
    }

    /// A full queue: no packet of the size of those that wait fits, or a sender waits for room.
    fn judge_datagram(&self, socket: &Socket, detail: &SocketDetail) -> Option<Why> {
        if self.evidence.waits_for_room((socket.id, socket.inode)) {
            return Some(Why::QueueFull);
        }
        // A unix socket has a limit of packets, which its senders wait for.
        if socket.family == Family::Unix {
            let peer = self.sweep.peer(detail);
            let sends = self.evidence.sends((socket.id, socket.inode)) && peer.is_some();
            return sends.then_some(Why::NoRoom);
        }
        let memory = detail.memory.as_ref()?;
        let mean = memory.rmem / detail.rx_packets.max(1);
        let full = detail.rx_packets > 0 && memory.rmem + mean > memory.rcvbuf;
        full.then_some(Why::QueueFull)
    }

    fn judge_pair(&self, socket: &Socket, detail: &SocketDetail) -> Option<Why> {
        if detail.sk_state == SkState::Listen {
            return judge_listener(socket, detail);
        }
        if detail.sk_state != SkState::Established {
            return None;
        }
        let peer = self.sweep.peer(detail);
        let earlier = peer.is_some_and(|peer| peer.socket.id < socket.id);
        match detail.shutdown {
            // Of two that are both open, one is shown.
            Shutdown::RdWr if earlier => None,
            Shutdown::RdWr => Some(Why::Over),
            Shutdown::Rd => Some(Why::HalfClosed),
            Shutdown::Wr if peer.is_none() => Some(Why::HalfClosed),
            Shutdown::None if detail.unread => Some(Why::Unread),
            _ => None,
        }
    }

    /// Adds those who wait at the other end: until this one is read, or accepts.
    pub(super) fn add_blocked(&self, of: &mut Stuck) {
        let Some(detail) = of.socket.as_ref().and_then(|of| of.detail.as_ref()) else {
            return;
        };
        let mut more = Vec::new();
        if of.why == Why::Unread {
            let writer = self.sweep.peer(detail);
            more.extend(writer.map(|writer| self.evidence.blocked(self.sweep, writer)));
        }
        // TCP drops their SYNs: they wait on their own sockets.
        if let (Why::BacklogFull, Some(local)) = (of.why, detail.local.socket_address()) {
            let any = local.ip().is_unspecified();
            for held in &self.sweep.sockets {
                let detail = held.socket.detail.as_ref();
                let waits = detail.filter(|detail| detail.sk_state == SkState::SynSent);
                let to = waits.and_then(|detail| detail.remote.socket_address());
                let is = |to: SocketAddr| {
                    let same = to.ip().to_canonical() == local.ip().to_canonical();
                    to.port() == local.port() && (any || same)
                };
                if held.socket.netns == of.netns && to.is_some_and(is) {
                    more.push(self.evidence.blocked(self.sweep, held));
                }
            }
        }
        for blocked in more.into_iter().flatten() {
            if !of.blocked.contains(&blocked) {
                of.blocked.push(blocked);
            }
        }
    }

    /// Adds the connections to which the end of this one may have to be passed on: the peer has
    /// ended its own half, and may still read.
    pub(super) fn add_relays(&self, of: &mut Stuck) {
        let closed = of.other_end.as_ref().is_some_and(|end| end.inode == 0);
        if of.why != Why::CloseWait || closed {
            return;
        }
        for holder in &of.blame {
            let ours = |held: &&Held| held.holders.iter().any(|other| other.pid == holder.pid);
            let sockets = self.sweep.sockets.iter().filter(ours);
            let listens: BTreeSet<u16> = sockets
                .clone()
                .filter_map(|held| {
                    let detail = held.socket.detail.as_ref()?;
                    let address = detail.local.socket_address()?;
                    (detail.sk_state == SkState::Listen).then_some(address.port())
                })
                .collect();
            for held in sockets {
                let socket = &held.socket;
                let Some(detail) = &socket.detail else {
                    continue;
                };
                let local = detail.local.socket_address();
                let accepted = local.is_some_and(|local| listens.contains(&local.port()));
                let stream = is_tcp(socket) || is_mptcp(socket);
                let open = detail.sk_state == SkState::Established && !detail.shutdown.wr();
                let own = self.sweep.peer(detail).is_some_and(|peer| ours(&peer))
                    || addresses(socket, detail).is_some_and(|here| {
                        let other = self.mptcp.get(&here.reversed());
                        other.is_some_and(|pids| pids.contains(&holder.pid))
                    });
                if !stream || !open || accepted || own || socket.inode == of.inode {
                    continue;
                }
                let same = held.holders.iter().find(|other| other.pid == holder.pid);
                let relay = same.map(|same| Relay {
                    holder: same.clone(),
                    local: detail.local.clone(),
                    remote: detail.remote.clone(),
                });
                let relay = relay.filter(|relay| !of.relays.contains(relay));
                of.relays.extend(relay);
            }
        }
    }

    fn other_end(&self, detail: &SocketDetail, here: Option<Addresses>) -> Option<OtherEnd> {
        let orphan = here.and_then(|here| self.loose.get(&here.reversed()));
        if let Some(orphan) = orphan.filter(|orphan| orphan.inode == 0) {
            return Some(OtherEnd {
                state: orphan.state.clone(),
                inode: 0,
                netns: orphan.addresses.netns,
                unread: orphan.rx,
                holders: Vec::new(),
                ends_ms: orphan.ends_ms(),
            });
        }
        // The first subflow of an MPTCP connection that no process has any more. Its state is that
        // of the subflow; that of the connection follows from this end's.
        if let (Some(subflow), SkState::CloseWait) = (orphan, &detail.sk_state) {
            if here.is_some_and(|here| self.mptcp.contains_key(&here)) {
                return Some(OtherEnd {
                    state: SkState::FinWait2,
                    inode: 0,
                    netns: subflow.addresses.netns,
                    unread: 0,
                    holders: Vec::new(),
                    ends_ms: None,
                });
            }
        }
        let peer = detail.other.as_ref()?;
        let held = self.sweep.peer(detail);
        Some(OtherEnd {
            state: peer.peer_state.clone(),
            inode: peer.peer_inode,
            netns: held.map_or(0, |held| held.socket.netns),
            unread: peer.peer_rx_bytes,
            holders: held.map_or_else(Vec::new, |held| held.holders.clone()),
            ends_ms: None,
        })
    }

    /// A connection that no descriptor leads to.
    pub(super) fn loose(&self, connection: &Connection) -> Option<Stuck> {
        let here = connection.addresses;
        if self.is_subflow(connection) {
            return None;
        }
        let holders = self.evidence.threads(connection.inode);
        let others = self.evidence.rings(connection.inode);
        let known = !holders.is_empty() || !others.is_empty();
        let other = self.ends.get(&here.reversed());
        let other_detail = other.and_then(|held| held.socket.detail.as_ref());
        let why = match (connection.inode, &connection.state) {
            // A message may be read at any time: until then it is nobody's.
            (1.., _) if !known && !self.evidence.messages().is_empty() => Why::Unheld,
            (1.., SkState::CloseWait) => Why::CloseWait,
            (1.., SkState::FinWait2) => Why::HalfClosed,
            (1.., state) if is_closing(state) => Why::Unacknowledged,
            // It is open, and something has it: a thread, an io_uring, or the kernel.
            (1.., _) => return None,
            // Told with the end that has to act.
            (0, SkState::FinWait2) => {
                if other_detail.is_some_and(|of| of.sk_state == SkState::CloseWait)
                    || self.is_early(&here)
                {
                    return None;
                }
                Why::Orphan
            }
            (0, _) => Why::Unacknowledged,
        };
        let six = here.local.is_ipv6() || here.remote.is_ipv6();
        let fin = u64::from(is_closing(&connection.state));
        Some(Stuck {
            why,
            severity: why.severity(),
            family: if six { Family::Inet6 } else { Family::Inet },
            r#type: SocketKind::Stream,
            protocol: Protocol::Tcp,
            netns: here.netns,
            inode: connection.inode,
            local: here.local.to_string().as_str().into(),
            remote: here.remote.to_string().as_str().into(),
            sk_state: connection.state.clone(),
            shutdown: None,
            unread: connection.rx,
            unacknowledged: connection.tx.saturating_sub(fin),
            waiting: None,
            full: None,
            blocked: Vec::new(),
            silent_ms: None,
            candidates: match why {
                Why::Unheld => self.evidence.messages().to_vec(),
                _ => Vec::new(),
            },
            relays: Vec::new(),
            references: None,
            unnamed: known.then_some(0),
            other_end: other.zip(other_detail).map(|(held, detail)| OtherEnd {
                state: detail.sk_state.clone(),
                inode: held.socket.inode,
                netns: held.socket.netns,
                unread: detail.rx_bytes,
                holders: held.holders.clone(),
                ends_ms: None,
            }),
            blame: match why {
                Why::Unheld => Vec::new(),
                Why::CloseWait => holders.clone(),
                _ => other.map(|held| held.holders.clone()).unwrap_or_default(),
            },
            ends_ms: connection.ends_ms(),
            waits_at_least: !connection.remnant,
            text: None,
            socket: None,
            key: Key::Addresses(here),
            holders,
            others,
        })
    }
}

/// Whether several processes, or something that is no descriptor, have a socket.
fn is_shared(held: &Held) -> bool {
    let more = u64::try_from(held.socket.file_refs).unwrap_or(0) > held.holders.len() as u64;
    let first = held.holders.first().map(|holder| holder.pid);
    more || held.holders.iter().any(|of| Some(of.pid) != first)
}

/// A listener whose accept queue is full, or holds connections whose peers have closed.
fn judge_listener(socket: &Socket, detail: &SocketDetail) -> Option<Why> {
    // One more than the backlog fits (sk_acceptq_is_full(), unix_recvq_full()).
    if detail.rx_packets > detail.backlog {
        return Some(Why::BacklogFull);
    }
    let gone = socket.waiting.iter().any(|of| is_gone(socket, of));
    gone.then_some(Why::NotAccepted)
}

fn full(socket: &Socket, detail: &SocketDetail) -> Full {
    let listens = detail.sk_state == SkState::Listen;
    // What a unix socket has received counts for those that sent it.
    let has_memory = socket.family != Family::Unix;
    Full {
        packets: detail.rx_packets,
        backlog: listens.then_some(detail.backlog),
        memory: detail.memory.clone().filter(|_| has_memory),
        handshakes: detail
            .tcp
            .as_ref()
            .map(|tcp| tcp.requests)
            .filter(|_| listens),
    }
}

/// How one who closed before he was accepted is looked for: a listener may be bound to any address.
fn early(netns: u64, local: SocketAddr, remote: SocketAddr) -> Addresses {
    let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), remote.port());
    Addresses::new(netns, local, any)
}

impl Connection {
    /// When the kernel ends an orphan that waits for the peer's FIN. Its timer means something else
    /// in other states.
    fn ends_ms(&self) -> Option<u64> {
        let waits = self.inode == 0 && self.state == SkState::FinWait2;
        self.timer_ms.filter(|_| waits)
    }
}
