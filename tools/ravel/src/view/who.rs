//! `ravel who`: a row for each socket that matches, with everyone who holds it and its other end.

use std::fmt::Write;

use ravel_records::{Holds, Sharer};

use super::listing::{Cell, Column, Listing};
use super::sockets::{address, proto, state};
use crate::cli;
use crate::command::Failure;
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, plain};
use crate::sweep::Holder;
use crate::who::{Answer, Known};

/// Sockets that are shown unless more are asked for.
const FEW: usize = 20;
/// Holders of one that are named unless all are asked for.
const OWNERS: usize = 4;

const COLUMNS: [Column; 8] = [
    Column::words("NETNS").spare(2),
    Column::words("PROTO").spare(3),
    Column::words("STATE"),
    Column::words("LOCAL"),
    Column::words("REMOTE"),
    Column::numbers("REFS").spare(4),
    Column::numbers("INODE").spare(1),
    Column::words("OWNERS"),
];

/// Draws the answer to what was asked for in these words; `host` is the network namespace of init.
pub fn draw(
    asked: &str,
    answer: &Answer,
    host: Option<u64>,
    args: &cli::Who,
    screen: &Screen,
) -> Result<String, Failure> {
    let mut text = format!(
        "{NAME}{asked}{NAME:#}: {STRONG}{}{STRONG:#} among the descriptors of {}\n",
        count(answer.sockets.len() as u64, "socket", "sockets"),
        count(answer.processes, "process", "processes"),
    );
    for sentence in answer.unread.sentences() {
        let _ = writeln!(text, "{NOTE}{sentence}{NOTE:#}");
    }
    let mut listing = Listing::new(&COLUMNS, FEW);
    for known in &answer.sockets {
        listing.add(row(known, host), owners(known, args.rows.all));
    }
    text.push_str(&listing.draw(&args.rows, screen, |_| Vec::new())?);
    Ok(text)
}

fn row(known: &Known, host: Option<u64>) -> Vec<Cell> {
    let socket = &known.held.socket;
    let detail = socket.detail.as_ref();
    let refs = u64::try_from(socket.file_refs).unwrap_or(0);
    vec![
        match host == Some(socket.netns) {
            true => Cell::new("host"),
            false => Cell::new(socket.netns.to_string()),
        },
        Cell::new(proto(&socket.family, &socket.r#type, &socket.protocol)),
        match detail {
            Some(detail) => Cell::new(state(socket, detail)),
            None => Cell::styled("busy", NOTE),
        },
        Cell::new(detail.map_or("-".to_owned(), |detail| address(&detail.local))),
        Cell::new(detail.map_or("-".to_owned(), |detail| address(&detail.remote))),
        Cell::number(refs, refs.to_string()),
        Cell::styled(socket.inode.to_string(), DIM).by(socket.inode),
        Cell::default(),
    ]
}

/// Everyone who holds it, and who has its other end.
fn owners(known: &Known, all: bool) -> String {
    let mut parts: Vec<String> = list(&known.held.holders, all);
    parts.extend(known.others.iter().map(other));
    match known.unnamed {
        Some(0) => {}
        Some(unnamed) => parts.push(format!(
            "{NOTE}{} of unknown holders{NOTE:#} (a system call, or the kernel)",
            count(unnamed, "reference", "references")
        )),
        None => {
            let found = known.held.holders.len() as u64;
            let refs = u64::try_from(known.held.socket.file_refs).unwrap_or(0);
            parts.push(format!(
                "{NOTE}{} not looked up{NOTE:#}",
                count(refs.saturating_sub(found), "reference", "references")
            ));
        }
    }
    let mut text = parts.join(", ");
    let detail = known.held.socket.detail.as_ref();
    if let Some(peer) = detail.and_then(|detail| detail.other.as_ref()) {
        let holders = list(&known.peer_holders, all);
        let who = match (holders.is_empty(), peer.peer_inode) {
            (false, _) => holders.join(", "),
            (true, 0) => "not open in any process".to_owned(),
            (true, inode) => format!("inode:{inode}, no descriptor found"),
        };
        let _ = write!(text, "; peer {who}");
    }
    text
}

fn list(holders: &[Holder], all: bool) -> Vec<String> {
    let shown = match all || holders.len() == OWNERS + 1 {
        true => holders.len(),
        false => OWNERS.min(holders.len()),
    };
    let mut parts: Vec<String> = holders.iter().take(shown).map(descriptor).collect();
    if holders.len() > shown {
        parts.push(format!("{} more", holders.len() - shown));
    }
    parts
}

/// A holder in short.
pub fn descriptor(holder: &Holder) -> String {
    let (comm, pid) = (plain(&holder.comm), holder.pid);
    format!("{comm} {pid} fd {}", holder.fd)
}

/// The holder of a reference that is no descriptor.
pub fn other(sharer: &Sharer) -> String {
    let (comm, pid, fd) = (plain(&sharer.comm), sharer.pid, sharer.fd);
    let how = match &sharer.holds {
        Holds::Message => "in unread messages of unix socket",
        Holds::Ring => "registered with the io_uring",
        _ => "held by",
    };
    format!("{comm} {pid} {how} fd {fd}")
}
