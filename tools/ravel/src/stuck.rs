//! `ravel stuck`: connections that are half closed or do not end, and the processes responsible.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ravel_records::client::Client;
use ravel_records::{
    Family, Fin, Protocol, Sharer, Shutdown, SkState, Socket, SocketDetail, SocketKind, TcpTimer,
    Text, Timer,
};
use serde::Serialize;

use crate::Failure;
use crate::connections::{Addresses, Connection, connections, namespaces};
use crate::identity::Processes;
use crate::proc::{Proc, Subject, Unread};
use crate::sweep::{self, Held, Holder, Sweep};
use crate::who::{Known, Seeker};

/// What a connection is stuck in, worst first: what never ends by itself, then what the kernel ends, then what may
/// be well, and of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The peer has sent FIN, and this end is still open.
    CloseWait,
    /// One direction is shut, and the other goes on.
    HalfClosed,
    /// It is over, and still open here.
    Over,
    /// No descriptor leads to it, although it is in an open file.
    Unheld,
    /// Its peer has gone before anybody has accepted it.
    NotAccepted,
    /// It is closed on this side, and the peer does not acknowledge that.
    Unacknowledged,
    /// Nobody has it any more, and the peer does not end it.
    Orphan,
    /// What was written waits until the peer reads.
    NoRoom,
    /// What has come waits to be read.
    Unread,
    /// It is open, and several processes have it: a close() by one of them ends nothing.
    Shared,
}

impl Why {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::CloseWait,
        Self::HalfClosed,
        Self::Over,
        Self::Unheld,
        Self::NotAccepted,
        Self::Unacknowledged,
        Self::Orphan,
        Self::NoRoom,
        Self::Unread,
        Self::Shared,
    ];
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does not end by itself.
    Critical,
    /// It ends by the kernel, or by what the peer does.
    Warning,
    /// It may be well, and of the moment.
    Notice,
}

impl Severity {
    /// All of them, worst first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Notice];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }

    /// A number that is greater the worse it is.
    pub fn rank(self) -> u64 {
        2 - self as u64
    }
}

impl Why {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::CloseWait | Self::HalfClosed | Self::Over | Self::Unheld => Severity::Critical,
            Self::NotAccepted | Self::Unacknowledged | Self::Orphan | Self::NoRoom => {
                Severity::Warning
            }
            Self::Unread | Self::Shared => Severity::Notice,
        }
    }
}

/// The other end of a connection, where it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherEnd {
    /// Its state.
    pub state: SkState,
    /// 0 where nobody has it open.
    pub inode: u64,
    /// The descriptors that were found.
    pub holders: Vec<Holder>,
    /// Nobody has it: the kernel removes it then.
    pub ends_ms: Option<u64>,
}

/// The connections that wait for accept().
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// All of them.
    pub connections: u64,
    /// Those whose peers have closed.
    pub closed: u64,
}

/// A connection that is stuck.
#[derive(Clone, Debug, Serialize)]
pub struct Stuck {
    /// In what.
    pub why: Why,
    /// How bad that is.
    pub severity: Severity,
    /// The family.
    pub family: Family,
    /// The type.
    pub r#type: SocketKind,
    /// The protocol.
    pub protocol: Protocol,
    /// Inode of its network namespace.
    pub netns: u64,
    /// Its inode, 0 where nobody has it open.
    pub inode: u64,
    /// This end's address.
    pub local: Text,
    /// The other one's.
    pub remote: Text,
    /// Its state.
    pub sk_state: SkState,
    /// The directions that are shut, where somebody has it open.
    pub shutdown: Option<Shutdown>,
    /// Bytes that nobody has read.
    pub unread: u64,
    /// Bytes that the peer has not acknowledged.
    pub unacknowledged: u64,
    /// A listener: the connections that wait for accept().
    pub waiting: Option<Queue>,
    /// Milliseconds since the peer was last heard of.
    pub silent_ms: Option<u64>,
    /// The processes that have it open.
    pub holders: Vec<Holder>,
    /// References that are no descriptors.
    pub others: Vec<Sharer>,
    /// References to the open file, where there is one.
    pub references: Option<u64>,
    /// References whose holders are not known; none where they were not looked up, so that there may be holders that are
    /// not in `holders`.
    pub unnamed: Option<u64>,
    /// The other end, where it is on this machine.
    pub other_end: Option<OtherEnd>,
    /// The processes responsible: those that would have to close, shut down, accept or read.
    pub blame: Vec<Holder>,
    /// Milliseconds until the kernel ends it by itself, where it does; the least, if `waits_at_least`.
    pub ends_ms: Option<u64>,
    /// `ends_ms` may be prolonged.
    pub waits_at_least: bool,
    /// The same in sentences, for people.
    pub text: Option<Prose>,
    /// The socket, as the module reports it.
    #[serde(skip)]
    pub socket: Option<Socket>,
    /// What it is known by when looked for again.
    #[serde(skip)]
    key: Key,
}

/// What is known of a connection, in sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prose {
    /// Who would have to act.
    pub responsible: String,
    /// What would end it.
    pub remedy: String,
}

/// What a connection is known by when looked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Socket(sweep::Key),
    Addresses(Addresses),
}

/// What was looked at.
#[derive(Debug, Default, Serialize)]
pub struct Looked {
    /// The kernel's release.
    pub kernel: Text,
    /// Processes that were read.
    #[serde(rename = "processes_read")]
    pub processes: u64,
    /// Sockets among their descriptors.
    #[serde(rename = "sockets_read")]
    pub sockets: u64,
    /// Of these, the ones whose user held their lock: nothing is known of them.
    #[serde(rename = "sockets_busy")]
    pub busy: u64,
    /// Network namespaces that were searched for connections that no descriptor leads to; none where reports were
    /// saved.
    #[serde(rename = "namespaces_read")]
    pub namespaces: Option<u64>,
    /// Network namespaces of sockets that no process is in, and that were not searched.
    pub namespaces_unseen: u64,
    /// Network namespaces whose processes have all exited or moved before their connections were read.
    pub namespaces_gone: u64,
    /// Open connections with references that were not looked up, so that they may be shared.
    pub unexamined: u64,
    /// Records that a bound of the module left out.
    pub cut: u64,
    /// What could not be read.
    pub unread: Unread,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// What was looked at.
    #[serde(flatten)]
    pub looked: Looked,
    /// What is stuck, worst first.
    pub stuck: Vec<Stuck>,
    /// The processes that are named; null where saved reports were searched.
    pub processes: Option<Processes>,
}

/// Looks at the whole machine.
pub fn ask(client: &Client, proc: &Proc) -> Result<Answer, Failure> {
    let sweep = Sweep::ask(client, proc)?;
    let mut unread = Unread::default();
    let namespaces = namespaces(proc, &mut unread).map_err(Failure::Proc)?;
    let known: BTreeSet<u64> = sweep.sockets.iter().map(|held| held.socket.inode).collect();
    let (mut loose, mut read, mut gone) = (Vec::new(), 0, 0);
    for (netns, pids) in &namespaces {
        match connections(proc, *netns, pids, |connection| {
            is_loose(connection, &known)
        }) {
            Ok(Some(found)) => {
                loose.extend(found);
                read += 1;
            }
            Ok(None) => gone += 1,
            Err(error) => unread.add(Subject::Namespace, pids[0], error),
        }
    }
    // A descriptor that was passed on, or made, while processes were read may have been missed.
    if loose.iter().any(|connection| connection.inode != 0) {
        let again = Sweep::ask(client, proc)?;
        let known: BTreeSet<u64> = again.sockets.iter().map(|held| held.socket.inode).collect();
        loose.retain(|connection| is_loose(connection, &known));
    }
    let mut answer = find(&sweep, &loose, Some(client));
    let seen = |held: &&Held| !namespaces.contains_key(&held.socket.netns);
    let unseen: BTreeSet<u64> = sweep
        .sockets
        .iter()
        .filter(seen)
        .map(|held| held.socket.netns)
        .collect();
    answer.looked.namespaces = Some(read);
    answer.looked.namespaces_unseen = unseen.len() as u64;
    answer.looked.namespaces_gone = gone;
    answer.looked.unread.0.append(&mut unread.0);
    Ok(answer)
}

/// Whether a connection is one that only its namespace shows: an orphan on its way to the end, or one in an open
/// file that no descriptor leads to. What nobody has accepted yet has no file either, but is open.
fn is_loose(connection: &Connection, known: &BTreeSet<u64>) -> bool {
    use SkState::{CloseWait, Closing, Established, FinWait1, FinWait2, LastAck};
    match connection.inode {
        0 => matches!(connection.state, FinWait1 | FinWait2 | Closing | LastAck),
        inode => {
            let there = matches!(
                connection.state,
                Established | FinWait1 | FinWait2 | CloseWait | Closing | LastAck
            );
            there && !known.contains(&inode)
        }
    }
}

/// Finds what is stuck among the sockets that processes have, and among connections that no descriptor leads to.
pub fn find(sweep: &Sweep, loose: &[Connection], client: Option<&Client>) -> Answer {
    let found = Found::new(sweep, loose);
    let mut stuck: Vec<(Stuck, Option<&Held>)> = Vec::new();
    for held in &sweep.sockets {
        stuck.extend(found.judge(held).map(|of| (of, Some(held))));
    }
    stuck.extend(loose.iter().filter_map(|of| Some((found.loose(of)?, None))));
    stuck.sort_by_key(|(of, _)| of.rank());
    // The module is asked who else has a socket for the worst of them.
    let mut seeker = Seeker::new(sweep, client);
    for (of, held) in &mut stuck {
        if let Some(held) = held {
            of.add(seeker.know(held));
        }
    }
    let mut stuck: Vec<Stuck> = stuck.into_iter().map(|(of, _)| of).collect();
    let unexamined = stuck.iter().filter(|of| of.may_be_shared()).count() as u64;
    stuck.retain(Stuck::is_reported);
    let mut unread = sweep.unread.clone();
    unread.0.append(&mut seeker.unread.0);
    let looked = Looked {
        kernel: sweep.kernel.clone(),
        processes: sweep.processes,
        sockets: sweep.sockets.len() as u64,
        busy: found.busy,
        cut: sweep.cut,
        unexamined,
        unread,
        ..Looked::default()
    };
    Answer {
        looked,
        stuck,
        processes: None,
    }
}

impl Answer {
    /// Reads who the processes are that are named.
    pub fn identify(&mut self, proc: &Proc) {
        let pids = self.stuck.iter().flat_map(Stuck::pids);
        self.processes = Some(Processes::read(proc, pids));
    }

    /// Leaves what stood still since an earlier look: in the same state, with as many bytes waiting.
    pub fn keep_still(&mut self, earlier: &Self) {
        let before: BTreeMap<Key, &Stuck> = earlier.stuck.iter().map(|of| (of.key, of)).collect();
        self.stuck.retain(|now| {
            before.get(&now.key).is_some_and(|then| {
                (then.why, then.unread, then.unacknowledged, then.waiting)
                    == (now.why, now.unread, now.unacknowledged, now.waiting)
            })
        });
    }
}

impl Stuck {
    fn rank(&self) -> (Why, u64, u64) {
        let silent = self.silent_ms.unwrap_or(0);
        // What ends last is worse than what ends at once.
        let ends = self.ends_ms.unwrap_or(u64::MAX);
        (self.why, u64::MAX - silent, u64::MAX - ends)
    }

    /// The processes that are named, those responsible first.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        let other = self.other_end.iter().flat_map(|end| &end.holders);
        let holders = self.blame.iter().chain(&self.holders).chain(other);
        let others = self.others.iter().map(|sharer| sharer.pid);
        holders.map(|holder| holder.pid).chain(others)
    }

    /// Whether several processes hold it, or something that is no process.
    fn is_shared(&self) -> bool {
        let pids: BTreeSet<u32> = self.holders.iter().map(|holder| holder.pid).collect();
        pids.len() > 1 || !self.others.is_empty()
    }

    /// Whether it is an open connection of one process, with references that were not looked up.
    fn may_be_shared(&self) -> bool {
        self.why == Why::Shared && !self.is_shared() && self.unnamed.is_none()
    }

    fn is_reported(&self) -> bool {
        self.why != Why::Shared || self.is_shared()
    }

    /// Whether all that hold it are known, apart from system calls under way.
    pub fn knows_all_holders(&self) -> bool {
        self.unnamed.is_some()
    }

    /// Adds what was found out about holders.
    fn add(&mut self, known: Known) {
        if self.blame == self.holders {
            self.blame = known.held.holders.clone();
        }
        self.holders = known.held.holders;
        self.others = known.others;
        self.unnamed = known.unnamed;
    }
}

/// The state of a TCP connection's end that waits for the peer's acknowledgement.
fn is_closing(state: &SkState) -> bool {
    matches!(
        state,
        SkState::FinWait1 | SkState::LastAck | SkState::Closing
    )
}

fn is_tcp(socket: &Socket) -> bool {
    socket.protocol == Protocol::Tcp && matches!(socket.family, Family::Inet | Family::Inet6)
}

/// A connection of unix sockets.
fn is_pair(socket: &Socket) -> bool {
    let pair = matches!(socket.r#type, SocketKind::Stream | SocketKind::Seqpacket);
    socket.family == Family::Unix && pair
}

fn addresses(socket: &Socket, detail: &SocketDetail) -> Option<Addresses> {
    Some(Addresses::new(
        socket.netns,
        detail.local.socket_address()?,
        detail.remote.socket_address()?,
    ))
}

/// What is known, by what it is looked for.
struct Found<'a> {
    sweep: &'a Sweep,
    /// Connections that no descriptor leads to.
    loose: BTreeMap<Addresses, &'a Connection>,
    /// Sockets at the other ends of these.
    ends: BTreeMap<Addresses, &'a Held>,
    /// Those that have closed, and whose other end nobody has accepted: told with the listener.
    gone_early: BTreeSet<Addresses>,
    busy: u64,
}

impl<'a> Found<'a> {
    fn new(sweep: &'a Sweep, loose: &'a [Connection]) -> Self {
        let loose: BTreeMap<_, _> = loose.iter().map(|of| (of.addresses, of)).collect();
        let mut found = Self {
            sweep,
            loose,
            ends: BTreeMap::new(),
            gone_early: BTreeSet::new(),
            busy: 0,
        };
        for held in &sweep.sockets {
            let socket = &held.socket;
            let Some(detail) = &socket.detail else {
                found.busy += 1;
                continue;
            };
            if !is_tcp(socket) {
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

    fn judge(&self, held: &Held) -> Option<Stuck> {
        let socket = &held.socket;
        let detail = socket.detail.as_ref()?;
        let why = match (is_tcp(socket), is_pair(socket)) {
            (true, _) => self.judge_tcp(held, detail)?,
            (_, true) => self.judge_pair(socket, detail)?,
            _ => return None,
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
        let gone = socket.waiting.iter().filter(|waiting| {
            let unix = socket.family == Family::Unix;
            waiting.sk_state == SkState::CloseWait || (unix && waiting.peer_inode == 0)
        });
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
            waiting: (why == Why::NotAccepted).then(|| Queue {
                connections: detail.rx_packets,
                closed: gone.count() as u64,
            }),
            silent_ms,
            holders: held.holders.clone(),
            others: Vec::new(),
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
            Why::HalfClosed if is_tcp(socket) => theirs(),
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
            SkState::Listen => {
                let gone =
                    |waiting: &ravel_records::Waiting| waiting.sk_state == SkState::CloseWait;
                return socket.waiting.iter().any(gone).then_some(Why::NotAccepted);
            }
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
                let more = u64::try_from(socket.file_refs).unwrap_or(0) > held.holders.len() as u64;
                let first = held.holders.first().map(|holder| holder.pid);
                let several = held.holders.iter().any(|of| Some(of.pid) != first);
                return (more || several).then_some(Why::Shared);
            }
            _ => return None,
        })
    }

    fn judge_pair(&self, socket: &Socket, detail: &SocketDetail) -> Option<Why> {
        if detail.sk_state == SkState::Listen {
            let gone = |waiting: &ravel_records::Waiting| waiting.peer_inode == 0;
            return socket.waiting.iter().any(gone).then_some(Why::NotAccepted);
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

    fn other_end(&self, detail: &SocketDetail, here: Option<Addresses>) -> Option<OtherEnd> {
        let orphan = here.and_then(|here| self.loose.get(&here.reversed()));
        if let Some(orphan) = orphan.filter(|orphan| orphan.inode == 0) {
            return Some(OtherEnd {
                state: orphan.state.clone(),
                inode: 0,
                holders: Vec::new(),
                ends_ms: orphan.ends_ms(),
            });
        }
        let peer = detail.other.as_ref()?;
        let holders = self.sweep.peer(detail).map(|held| held.holders.clone());
        Some(OtherEnd {
            state: peer.peer_state.clone(),
            inode: peer.peer_inode,
            holders: holders.unwrap_or_default(),
            ends_ms: None,
        })
    }

    /// A connection that no descriptor leads to.
    fn loose(&self, connection: &Connection) -> Option<Stuck> {
        let here = connection.addresses;
        let other = self.ends.get(&here.reversed());
        let other_detail = other.and_then(|held| held.socket.detail.as_ref());
        let why = match (connection.inode, &connection.state) {
            (1.., _) => Why::Unheld,
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
            silent_ms: None,
            holders: Vec::new(),
            others: Vec::new(),
            references: None,
            unnamed: None,
            other_end: other.zip(other_detail).map(|(held, detail)| OtherEnd {
                state: detail.sk_state.clone(),
                inode: held.socket.inode,
                holders: held.holders.clone(),
                ends_ms: None,
            }),
            blame: match why {
                Why::Unheld => Vec::new(),
                _ => other.map(|held| held.holders.clone()).unwrap_or_default(),
            },
            ends_ms: connection.ends_ms(),
            waits_at_least: !connection.remnant,
            text: None,
            socket: None,
            key: Key::Addresses(here),
        })
    }
}

/// How one who closed before he was accepted is looked for: a listener may be bound to any address.
fn early(netns: u64, local: SocketAddr, remote: SocketAddr) -> Addresses {
    let any = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), remote.port());
    Addresses::new(netns, local, any)
}

impl Connection {
    /// When the kernel ends an orphan that waits for the peer's FIN. Its timer means something else in other states.
    fn ends_ms(&self) -> Option<u64> {
        let waits = self.inode == 0 && self.state == SkState::FinWait2;
        self.timer_ms.filter(|_| waits)
    }
}

#[cfg(test)]
mod tests;
