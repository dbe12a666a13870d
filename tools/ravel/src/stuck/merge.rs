//! The ends of one connection: what is wrong with it is shown once, by the end that has to act.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::judge::{addresses, is_closing};
use super::{OtherEnd, Stuck, Why};
use crate::connections::Addresses;
use crate::sweep::{Held, Key};

type Judged<'a> = (Stuck, Option<&'a Held>);

/// Where the ends are, by what they are found by.
#[derive(Default)]
struct Places {
    sockets: BTreeMap<Key, usize>,
    /// In one network namespace.
    here: BTreeMap<Addresses, usize>,
    /// In any: none where several namespaces have a connection with these addresses.
    anywhere: BTreeMap<(SocketAddr, SocketAddr), Option<usize>>,
}

impl Places {
    fn new(all: &[Judged<'_>]) -> Self {
        let mut places = Self::default();
        for (at, (of, held)) in all.iter().enumerate() {
            if let Some(held) = held {
                places
                    .sockets
                    .insert((held.socket.id, held.socket.inode), at);
            }
            let Some(ends) = ends(of, *held) else {
                continue;
            };
            places.here.insert(ends, at);
            // Loopback is another device in each namespace.
            if !ends.local.ip().is_loopback() {
                let known = places.anywhere.entry((ends.local, ends.remote));
                known.and_modify(|at| *at = None).or_insert(Some(at));
            }
        }
        places
    }

    fn other(&self, of: &Stuck, held: Option<&Held>) -> Option<usize> {
        let detail = held.and_then(|held| held.socket.detail.as_ref());
        let by_id = detail.and_then(|detail| {
            let inode = detail.other.as_ref()?.peer_inode;
            self.sockets.get(&(detail.peer, inode)).copied()
        });
        let by_addresses = || {
            let ends = ends(of, held)?;
            // A connection to oneself has one end.
            let reversed = ends.reversed();
            if reversed == ends {
                return None;
            }
            let near = self.here.get(&reversed).copied();
            near.or_else(|| {
                // Both must be the only ones, or another pair may have the same addresses.
                self.anywhere.get(&(ends.local, ends.remote)).copied()??;
                self.anywhere.get(&(ends.remote, ends.local)).copied()?
            })
        };
        by_id.or_else(by_addresses)
    }
}

/// The addresses of an end.
fn ends(of: &Stuck, held: Option<&Held>) -> Option<Addresses> {
    match held {
        Some(held) => addresses(&held.socket, held.socket.detail.as_ref()?),
        None => Some(Addresses::new(
            of.netns,
            of.local.socket_address()?,
            of.remote.socket_address()?,
        )),
    }
}

/// Joins the ends of each connection; those that are only shared, if their holders are known.
pub(super) fn connections(all: Vec<Judged<'_>>, known: bool) -> Vec<Judged<'_>> {
    let places = Places::new(&all);
    let others: Vec<Option<usize>> = all
        .iter()
        .map(|(of, held)| places.other(of, *held))
        .collect();
    let mut all: Vec<Option<Judged<'_>>> = all.into_iter().map(Some).collect();
    for (at, other) in others.into_iter().enumerate() {
        let Some(other) = other.filter(|other| *other != at) else {
            continue;
        };
        let may_join = |at: usize| {
            let of = all[at].as_ref();
            of.is_some_and(|(of, _)| known || of.why != Why::Shared)
        };
        // It may have been joined with its other end already.
        if !may_join(at) || !may_join(other) {
            continue;
        }
        let first = at.min(other);
        if let (Some(one), Some(two)) = (all[first].take(), all[at.max(other)].take()) {
            all[first] = Some(join(one, two));
        }
    }
    all.into_iter().flatten().collect()
}

/// Which end is shown.
enum Shown {
    First,
    Second,
    /// The first one, and both have to act.
    Both,
}

fn shown(one: &Stuck, two: &Stuck) -> Shown {
    use Why::{HalfClosed, NoRoom, Orphan, Over, Unacknowledged, Unheld, Unread};
    match (one.why, two.why) {
        (Over, Over) => Shown::Both,
        // A writer that waits cannot read meanwhile.
        (Unread, Unread) => match (one.waits_to_write(), two.waits_to_write()) {
            (true, false) => Shown::Second,
            (false, true) => Shown::First,
            _ => Shown::Both,
        },
        // Whoever has it would have to act.
        (Unheld, HalfClosed | Orphan | Unacknowledged) => Shown::First,
        (HalfClosed | Orphan | Unacknowledged, Unheld) => Shown::Second,
        (Unread, NoRoom) => Shown::First,
        (NoRoom, Unread) => Shown::Second,
        // It has sent FIN, and waits until the other one has read what is before it.
        (HalfClosed | Orphan, Unacknowledged) if is_closing(&two.sk_state) => Shown::Second,
        (Unacknowledged, HalfClosed | Orphan) if is_closing(&one.sk_state) => Shown::First,
        (first, second) if first <= second => Shown::First,
        _ => Shown::Second,
    }
}

fn join<'a>(one: Judged<'a>, two: Judged<'a>) -> Judged<'a> {
    let (mut kept, left, both) = match shown(&one.0, &two.0) {
        Shown::First => (one, two.0, false),
        Shown::Second => (two, one.0, false),
        Shown::Both => (one, two.0, true),
    };
    let of = &mut kept.0;
    let theirs = left.holders.clone();
    if both {
        let missing = theirs.iter().filter(|holder| !of.blame.contains(holder));
        let missing: Vec<_> = missing.cloned().collect();
        of.blame.extend(missing);
    } else if of.blame.is_empty() && of.why != Why::Unheld {
        of.blame = match of.why {
            // The end that is shown has to act itself.
            Why::CloseWait | Why::Over => Vec::new(),
            _ => theirs.clone(),
        };
    }
    let known = of.other_end.as_ref();
    if known.is_none_or(|end| end.holders.is_empty() && end.ends_ms.is_none()) {
        of.other_end = Some(OtherEnd {
            state: left.sk_state,
            inode: left.inode,
            netns: left.netns,
            unread: left.unread,
            holders: theirs,
            ends_ms: left.ends_ms,
        });
    }
    for blocked in left.blocked {
        if !of.blocked.contains(&blocked) {
            of.blocked.push(blocked);
        }
    }
    kept
}

impl Stuck {
    /// Whether this end has written more than the peer takes.
    fn waits_to_write(&self) -> bool {
        let detail = self.socket.as_ref().and_then(|of| of.detail.as_ref());
        let tcp = detail.and_then(|detail| detail.tcp.as_ref());
        let window =
            tcp.is_some_and(|tcp| tcp.unsent > 0 && tcp.timer == ravel_records::TcpTimer::Probe);
        window || self.blocked.iter().any(|blocked| blocked.writes)
    }
}
