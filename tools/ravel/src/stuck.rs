//! `ravel stuck`: connections that are half closed or do not end, queues that are full, and the
//! processes responsible.
//!
//! [`judge`] decides of each end by itself, [`merge`] joins the ends of one connection,
//! [`evidence`] finds out who waits and who holds what no descriptor leads to.

use std::collections::{BTreeMap, BTreeSet};

use ravel_records::client::Client;
use ravel_records::{
    Family, Protocol, Sharer, Shutdown, SkState, Socket, SocketKind, SocketMemory, Text,
};
use serde::Serialize;

use crate::Failure;
use crate::connections::{Addresses, Connection, connections, namespaces};
use crate::identity::Processes;
use crate::proc::{Proc, Subject, Unread};
use crate::sweep::{self, Held, Holder, Sweep};
use crate::who::{Known, Seeker};

mod evidence;
mod judge;
mod merge;
pub use evidence::{Blocked, Evidence};
use judge::Found;

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
    /// A listener's accept queue is full: connect() waits or fails.
    BacklogFull,
    /// A datagram socket's receive queue is full: senders wait, or packets are lost.
    QueueFull,
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
    pub const ALL: [Self; 12] = [
        Self::CloseWait,
        Self::HalfClosed,
        Self::Over,
        Self::Unheld,
        Self::BacklogFull,
        Self::QueueFull,
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
            Self::BacklogFull
            | Self::QueueFull
            | Self::NotAccepted
            | Self::Unacknowledged
            | Self::Orphan
            | Self::NoRoom => Severity::Warning,
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
    /// Inode of its network namespace.
    pub netns: u64,
    /// Bytes that nobody has read there.
    pub unread: u64,
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

/// A queue with a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Full {
    /// Packets, or connections, that it holds.
    pub packets: u64,
    /// A listener: its backlog, beyond which one more fits.
    pub backlog: Option<u64>,
    /// Its memory, where that is what has a limit.
    #[serde(flatten)]
    pub memory: Option<SocketMemory>,
    /// A TCP listener: handshakes under way.
    pub handshakes: Option<u64>,
}

/// A connection of the responsible process to which the end of a half-closed one may have to be
/// passed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Relay {
    /// Its descriptor.
    #[serde(flatten)]
    pub holder: Holder,
    /// Its address.
    pub local: Text,
    /// The address that it leads to.
    pub remote: Text,
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
    /// The queue that is full.
    pub full: Option<Full>,
    /// Tasks that wait for room in it, or for the connection.
    pub blocked: Vec<Blocked>,
    /// Milliseconds since the peer was last heard of.
    pub silent_ms: Option<u64>,
    /// The processes that have it open.
    pub holders: Vec<Holder>,
    /// References that are no descriptors.
    pub others: Vec<Sharer>,
    /// What may hold it where nothing is known to: unread messages with descriptors.
    pub candidates: Vec<Sharer>,
    /// Other connections of the responsible process, where the peer has only ended its own half: it
    /// may have to pass that on.
    pub relays: Vec<Relay>,
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
    /// Open connections that no descriptor, message or io_uring leads to, and with which nothing is
    /// wrong: the kernel's own, or held by a system call.
    pub kernel_connections: u64,
    /// Sockets of kinds for which there are no rules, by kind.
    pub not_judged: BTreeMap<String, u64>,
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
    let mut sweep = Sweep::ask(client, proc)?;
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
    sweep.settle(client)?;
    let mut evidence = Evidence::default();
    evidence.ask_waiters(client, &sweep, &mut unread);
    let unheld = loose.iter().map(|connection| connection.inode);
    let unheld: BTreeSet<u64> = unheld.filter(|inode| *inode != 0).collect();
    if !unheld.is_empty() {
        evidence
            .search(proc, &unheld, &mut unread)
            .map_err(Failure::Proc)?;
    }
    let mut answer = find(&sweep, &loose, &evidence, Some(client));
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
pub fn find(
    sweep: &Sweep,
    loose: &[Connection],
    evidence: &Evidence,
    client: Option<&Client>,
) -> Answer {
    let found = Found::new(sweep, loose, evidence);
    let mut stuck: Vec<(Stuck, Option<&Held>)> = Vec::new();
    for held in &sweep.sockets {
        stuck.extend(found.judge(held).map(|of| (of, Some(held))));
    }
    stuck.extend(loose.iter().filter_map(|of| Some((found.loose(of)?, None))));
    let mut stuck = merge::connections(stuck, false);
    for (of, _) in &mut stuck {
        found.add_relays(of);
        found.add_blocked(of);
    }
    stuck.sort_by_key(|(of, _)| of.rank());
    // The module is asked who else has a socket for the worst of them.
    let mut seeker = Seeker::new(sweep, client);
    for (of, held) in &mut stuck {
        if let Some(held) = held {
            of.add(seeker.know(held));
        }
    }
    let unexamined = stuck.iter().filter(|(of, _)| of.may_be_shared());
    let unexamined = unexamined.count() as u64;
    stuck.retain(|(of, _)| of.is_reported());
    let stuck = merge::connections(stuck, true);
    let stuck: Vec<Stuck> = stuck.into_iter().map(|(of, _)| of).collect();
    let mut unread = sweep.unread.clone();
    unread.0.append(&mut seeker.unread.0);
    let looked = Looked {
        kernel: sweep.kernel.clone(),
        processes: sweep.processes,
        sockets: sweep.sockets.len() as u64,
        busy: found.busy,
        kernel_connections: found.kernel_connections(),
        not_judged: found.not_judged(),
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
                    && then.full == now.full
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
        let waits = self.blocked.iter().map(|blocked| blocked.pid);
        holders.map(|holder| holder.pid).chain(others).chain(waits)
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

#[cfg(test)]
mod tests;
