//! Reports for people.

pub mod anon;
pub mod cost;
pub mod cow;
pub mod events;
pub mod listing;
pub mod page;
pub mod remarks;
pub mod sharers;
pub mod skb;
pub mod skbs;
pub mod sockets;
pub mod stuck;
pub mod tree;
pub mod waiters;
pub mod watch;
pub mod who;
pub mod why;

use ravel_common::table;
use ravel_records::{Header, Hex, MemberState, Relation};
use unicode_width::UnicodeWidthStr;

use crate::screen::{DIM, NAME, NOTE, STRONG, plain};

/// The first line of every report: whose it is, and where.
fn heading(subject: &str, header: &Header) -> String {
    let comm = plain(&header.comm);
    let pid = header.pid;
    let kernel = plain(&header.kernel);
    format!(
        "{STRONG}{subject}{STRONG:#} of {NAME}{comm}{NAME:#} (pid {pid}), {DIM}Linux {kernel}{DIM:#}\n"
    )
}

/// The process that an answer is about.
fn subject(header: &Header) -> String {
    let comm = plain(&header.comm);
    format!("{STRONG}{NAME}{comm}{NAME:#}{STRONG:#} {}", header.pid)
}

/// What a bound of the module left out, if it did.
fn left_out(cut: u64) -> String {
    match cut {
        0 => String::new(),
        cut => format!(
            "{NOTE}{} left out: the module has a bound.{NOTE:#}\n",
            crate::screen::count(cut, "record", "records")
        ),
    }
}

/// Columns of the widest.
fn widest(texts: impl Iterator<Item = String>) -> usize {
    texts.map(|text| text.width()).max().unwrap_or(0)
}

/// A range as in /proc/PID/maps.
fn range(start: Hex, end: Hex) -> String {
    format!("{:x}-{:x}", start.0, end.0)
}

/// The order of processes: oneself first, then those above, below, beside.
fn rank(relation: &Relation) -> u8 {
    match relation {
        Relation::Self_ => 0,
        Relation::Ancestor => 1,
        Relation::Descendant => 2,
        Relation::Unrelated => 3,
        Relation::Unknown | Relation::Other(_) => 4,
    }
}

/// Processes by what they are to the one asked for: `200 descendants, 1 other`.
fn kinds<'r>(relations: impl Iterator<Item = &'r Relation>) -> String {
    let words = [
        ("of its own", "of its own"),
        ("ancestor", "ancestors"),
        ("descendant", "descendants"),
        ("other", "others"),
        ("unknown", "unknown"),
    ];
    let mut found = [0u64; 5];
    for relation in relations {
        found[usize::from(rank(relation))] += 1;
    }
    let parts: Vec<String> = found
        .iter()
        .zip(words)
        .filter(|(number, _)| **number > 0)
        .map(|(number, (one, many))| crate::screen::count(*number, one, many))
        .collect();
    parts.join(", ")
}

/// What is to be said of a process that is not simply there.
fn passing(state: &MemberState) -> String {
    match state {
        MemberState::Live => String::new(),
        MemberState::Forking => "  being forked".to_owned(),
        MemberState::Exiting => "  exiting".to_owned(),
        MemberState::Other(state) => format!("  {state}"),
    }
}

/// A pid, where there is one.
fn pid(pid: u32) -> String {
    match pid {
        0 => "-".to_owned(),
        pid => pid.to_string(),
    }
}
