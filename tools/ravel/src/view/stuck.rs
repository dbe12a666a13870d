//! `ravel stuck`: how many connections do not end, then the worst, each with the process responsible and its remedy.

use std::collections::BTreeSet;
use std::fmt::Write;

use ravel_records::Protocol;

use super::left_out;
use super::listing::{Cell, Column, Listing};
use super::sockets::{address, proto, state};
use super::who::descriptor;
use crate::cli;
use crate::command::Failure;
use crate::identity::{Process, Processes};
use crate::screen::{BAD, DIM, NAME, NOTE, STRONG, Screen, count, plain};
use crate::stuck::{Answer, Blocked, Full, Severity, Stuck, Why};

mod explain;
pub use explain::{blamed, freed_by};
use explain::{close_verdict, duration, list};

/// Connections that are shown unless more are asked for.
const FEW: usize = 15;
/// How many connections of one kind and process are shown in detail.
const SHOWN: usize = 4;

/// The column that is empty where processes are not identified.
const UNIT: usize = 4;

const COLUMNS: [Column; 13] = [
    Column::words("SEVERITY"),
    Column::words("KIND"),
    Column::numbers("IDLE").spare(2),
    Column::words("PROCESS"),
    Column::words("UNIT").spare(2),
    Column::words("USER").hidden(),
    Column::words("PROTO").spare(5),
    Column::words("STATE").hidden(),
    Column::words("CONNECTION"),
    Column::numbers("UNREAD").spare(3),
    Column::numbers("UNSENT").hidden(),
    Column::numbers("INODE").spare(4),
    Column::words("FIX").spare(1),
];

/// Draws the answer.
pub fn draw(answer: &Answer, args: &cli::Stuck, screen: &Screen) -> Result<String, Failure> {
    let mut text = conclusion(answer);
    if answer.stuck.is_empty() {
        return Ok(text);
    }
    text.push('\n');
    if let Some(inode) = args.why {
        let list: Vec<&Stuck> = answer
            .stuck
            .iter()
            .filter(|of| inode == 0 || of.inode == inode)
            .collect();
        text.push_str(&details(&list, args.rows.all || inode != 0));
        let wide = Screen { width: None };
        let screen = if args.rows.wide { &wide } else { screen };
        text.push_str(&identities(&list, answer.processes.as_ref(), screen));
        return Ok(text);
    }
    let mut columns = COLUMNS;
    if answer.processes.is_none() {
        columns[UNIT] = columns[UNIT].hidden();
    }
    let mut listing = Listing::new(&columns, FEW);
    for of in &answer.stuck {
        listing.add(row(of, answer.processes.as_ref()), String::new());
    }
    text.push_str(&listing.draw(&args.rows, screen, |_| Vec::new())?);
    let of = answer.stuck.iter().find(|of| of.inode != 0);
    let _ = writeln!(
        text,
        "{DIM}Details: ravel stuck --why{}{DIM:#}",
        of.map_or(String::new(), |of| format!(" {}", of.inode))
    );
    Ok(text)
}

fn row(of: &Stuck, processes: Option<&Processes>) -> Vec<Cell> {
    let severity = of.why.severity();
    let style = match severity {
        Severity::Critical => BAD,
        Severity::Warning => NOTE,
        Severity::Notice => DIM,
    };
    let idle = match of.silent_ms {
        Some(ms) => Cell::new(duration(ms)).by(ms),
        None => Cell::none(),
    };
    let process = of.blame.first();
    let process = process.and_then(|holder| processes?.get(holder.pid));
    let unread = match (&of.full, of.waiting) {
        (Some(full), _) => Cell::new(queue(full)).by(full.packets),
        (None, Some(queue)) => Cell::new(format!("{} closed", queue.closed)).by(queue.closed),
        (None, None) => Cell::number(of.unread, of.unread.to_string()),
    };
    vec![
        Cell::styled(severity.as_str(), style).by(severity.rank()),
        Cell::new(words(of.why).0.replace(' ', "-")),
        idle,
        Cell::styled(responsible(of), NAME),
        process
            .and_then(Process::place)
            .map_or_else(Cell::none, Cell::new),
        process
            .and_then(Process::user)
            .map_or_else(Cell::none, Cell::new),
        Cell::new(proto(&of.family, &of.r#type, &of.protocol)),
        Cell::new(of.sk_state.to_string()),
        Cell::new(connection(of)),
        unread,
        Cell::number(of.unacknowledged, of.unacknowledged.to_string()),
        match of.inode {
            0 => Cell::none(),
            inode => Cell::styled(inode.to_string(), DIM).by(inode),
        },
        Cell::new(fix(of)),
    ]
}

/// How much a full queue holds, in a few words.
fn queue(full: &Full) -> String {
    match full.backlog {
        Some(backlog) => format!("{}/{backlog}", full.packets),
        None => count(full.packets, "packet", "packets"),
    }
}

/// Both ends; a listener has one.
fn connection(of: &Stuck) -> String {
    match of.remote.is_empty() {
        true if of.local.is_empty() => format!("inode:{}", of.inode),
        true => address(&of.local),
        false => format!("{} → {}", address(&of.local), address(&of.remote)),
    }
}

/// Who would have to act, in a few words.
fn responsible(of: &Stuck) -> String {
    let Some(first) = of.blame.first() else {
        return match of.why {
            Why::Unheld => "no process".to_owned(),
            Why::Orphan | Why::CloseWait => other_or_kernel(of),
            _ => "the peer".to_owned(),
        };
    };
    match of.blame.len() {
        1 => descriptor(first),
        more => format!("{} +{}", descriptor(first), more - 1),
    }
}

/// What holds an end that no descriptor leads to.
fn other_or_kernel(of: &Stuck) -> String {
    match of.others.first() {
        Some(sharer) => format!("{} {} (io_uring)", plain(&sharer.comm), sharer.pid),
        None => "kernel".to_owned(),
    }
}

/// What would end it, in a few words.
fn fix(of: &Stuck) -> String {
    let all = match of.holders.len() + of.others.len() > 1 || !of.knows_all_holders() {
        true => "close by all",
        false => "close",
    };
    let then = close_verdict(of).map(|said| {
        let end = said.find([',', ';']).unwrap_or(said.len());
        said[..end].to_owned()
    });
    match (of.why, then) {
        (Why::CloseWait, _) if !of.relays.is_empty() => {
            let fds: BTreeSet<u32> = of.relays.iter().map(|relay| relay.holder.fd).collect();
            match (fds.len(), fds.first()) {
                (1, Some(fd)) => format!("shutdown(WR) of fd {fd}, then close"),
                _ => "shutdown(WR) of the other side, then close".to_owned(),
            }
        }
        (Why::CloseWait, _) if of.unread > 0 => "read, then close".to_owned(),
        (Why::BacklogFull, _) => "accept".to_owned(),
        (Why::QueueFull, _) => "read".to_owned(),
        (Why::CloseWait | Why::Over | Why::Shared, Some(then)) => format!("{all} ({then})"),
        (Why::CloseWait | Why::Over | Why::Shared, None) => all.to_owned(),
        (Why::HalfClosed, _) => "close of the other end".to_owned(),
        (Why::Unheld, _) => "read of the message, or end of the holder".to_owned(),
        (Why::NotAccepted, _) => "accept and close".to_owned(),
        (Why::Unacknowledged, _) => "read by the peer".to_owned(),
        (Why::Orphan, _) => match of.ends_ms {
            Some(ms) => format!("ends in {}", duration(ms)),
            None => "ends by itself".to_owned(),
        },
        (Why::NoRoom | Why::Unread, _) => "read".to_owned(),
    }
}

/// Who the processes are that are responsible.
fn identities(list: &[&Stuck], known: Option<&Processes>, screen: &Screen) -> String {
    let mut text = String::new();
    let pids: BTreeSet<u32> = list
        .iter()
        .flat_map(|of| of.blame.iter().map(|holder| holder.pid))
        .collect();
    let processes = pids.into_iter().filter_map(|pid| known?.get(pid));
    for (at, process) in processes.enumerate() {
        if at == 0 {
            text.push_str("Processes responsible:\n");
        }
        let _ = writeln!(text, "{DIM}{}{DIM:#}", process.line(2, screen));
    }
    text
}

/// The connections one by one, by kind and process.
fn details(list: &[&Stuck], all: bool) -> String {
    let mut text = String::new();
    for why in Why::ALL {
        let of_kind: Vec<&Stuck> = list.iter().copied().filter(|of| of.why == why).collect();
        if of_kind.is_empty() {
            continue;
        }
        let style = match why.severity() {
            Severity::Critical => BAD,
            _ => NOTE,
        };
        let (name, meaning) = words(why);
        let _ = writeln!(text, "{style}{name}{style:#}: {meaning}");
        // By the processes responsible, in the order in which the worst of each stands.
        let mut groups: Vec<(String, Vec<&Stuck>)> = Vec::new();
        for of in of_kind {
            let who = processes(of);
            match groups.iter_mut().find(|(name, _)| *name == who) {
                Some((_, group)) => group.push(of),
                None => groups.push((who, vec![of])),
            }
        }
        for (who, group) in &groups {
            let shown = if all { group.len() } else { SHOWN };
            for of in group.iter().take(shown) {
                draw_one(&mut text, of);
            }
            if let more @ 1.. = group.len().saturating_sub(shown) {
                let _ = writeln!(
                    text,
                    "  {DIM}{} like these, of {who} (--all){DIM:#}",
                    count(more as u64, "more", "more")
                );
            }
        }
    }
    text
}

fn words(why: Why) -> (&'static str, &'static str) {
    match why {
        Why::CloseWait => (
            "close wait",
            "the peer has sent FIN; it lasts until this end is closed",
        ),
        Why::HalfClosed => (
            "half closed",
            "one direction is shut; it lasts until an end is closed",
        ),
        Why::Over => ("over", "the connection has ended, its descriptor is open"),
        Why::Unheld => (
            "unheld",
            "in an open file, but no process has a descriptor of it",
        ),
        Why::BacklogFull => (
            "backlog full",
            "the accept queue of a listener is full: connect() waits, or fails",
        ),
        Why::QueueFull => (
            "queue full",
            "the receive queue is full: senders wait, or their packets are dropped",
        ),
        Why::NotAccepted => (
            "not accepted",
            "the peer has closed before the connection was accepted",
        ),
        Why::Unacknowledged => (
            "unacknowledged",
            "closed on this side, and the peer does not acknowledge it",
        ),
        Why::Orphan => (
            "orphan",
            "closed and acknowledged, no process has it; the peer does not end its side",
        ),
        Why::NoRoom => ("no room", "written data waits until the peer reads"),
        Why::Unread => ("unread", "received data waits to be read"),
        Why::Shared => (
            "shared",
            "open, with several holders: a close() by one of them ends nothing",
        ),
    }
}

/// The processes responsible, without descriptors: what connections are grouped by.
fn processes(of: &Stuck) -> String {
    let mut names: Vec<String> = of
        .blame
        .iter()
        .map(|holder| format!("{} {}", plain(&holder.comm), holder.pid))
        .collect();
    names.dedup();
    match names.is_empty() {
        true => "the same kind".to_owned(),
        false => names.join(", "),
    }
}

fn draw_one(text: &mut String, of: &Stuck) {
    let kind = match of.protocol {
        Protocol::Tcp | Protocol::Mptcp | Protocol::Udp => of.protocol.to_string(),
        _ => format!("{} {}", of.family, of.r#type),
    };
    let _ = write!(
        text,
        "  {STRONG}{}{STRONG:#}  {kind} {}",
        connection(of),
        state_of(of),
    );
    if of.inode != 0 {
        let _ = write!(text, "  {DIM}inode {}{DIM:#}", of.inode);
    }
    for said in facts(of) {
        let _ = write!(text, "  {said}");
    }
    let _ = writeln!(text, "\n    responsible  {NAME}{}{NAME:#}", blamed(of));
    let _ = writeln!(text, "    remedy       {}", freed_by(of));
    if !of.blocked.is_empty() {
        let _ = writeln!(text, "    blocked      {NAME}{}{NAME:#}", blocked(of));
    }
}

/// The state, by the name that it has for its protocol.
fn state_of(of: &Stuck) -> String {
    let detail = of.socket.as_ref().and_then(|of| of.detail.as_ref());
    match (&of.socket, detail) {
        (Some(socket), Some(detail)) => state(socket, detail),
        _ => of.sk_state.to_string(),
    }
}

/// The tasks that wait, each with its system call.
fn blocked(of: &Stuck) -> String {
    let said = |blocked: &Blocked| {
        let mut text = format!("{} {}", plain(&blocked.comm), blocked.pid);
        if blocked.tid != blocked.pid {
            let _ = write!(text, ", thread {}", blocked.tid);
        }
        if let Some(call) = &blocked.call {
            let _ = write!(text, " in {call}()");
        }
        text
    };
    let said: Vec<String> = of.blocked.iter().map(said).collect();
    said.join(", ")
}

/// What is known of it, in a few words each.
fn facts(of: &Stuck) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(ms) = of.silent_ms {
        said.push(format!("silent for {}", duration(ms)));
    }
    if of.unread > 0 {
        said.push(format!("{} unread", count(of.unread, "byte", "bytes")));
    }
    if of.unacknowledged > 0 {
        let bytes = count(of.unacknowledged, "byte", "bytes");
        said.push(format!("{bytes} not acknowledged"));
    }
    if let Some(full) = &of.full {
        said.push(full_queue(full));
    }
    if let Some(queue) = of.waiting {
        let waiting = count(queue.connections, "connection waits", "connections wait");
        said.push(format!(
            "{waiting} for accept(); {} of their peers closed",
            queue.closed
        ));
    }
    if let Some(end) = &of.other_end {
        let mut text = format!("other end {}", end.state);
        match (end.holders.is_empty(), end.inode) {
            (false, _) => {
                let _ = write!(text, " of {}", list(&end.holders));
            }
            (true, 0) => text.push_str(", which no process has open"),
            (true, _) => {}
        }
        if end.unread > 0 {
            let _ = write!(text, ", {} unread", count(end.unread, "byte", "bytes"));
        }
        if let Some(ms) = end.ends_ms {
            let _ = write!(text, ", removed in {}", duration(ms));
        }
        said.push(text);
    }
    said
}

/// What a full queue holds, and what it has lost.
fn full_queue(full: &Full) -> String {
    let mut text = match full.backlog {
        Some(backlog) => format!("backlog {backlog}"),
        None => format!("{} queued", count(full.packets, "packet", "packets")),
    };
    if let Some(memory) = full.memory.as_ref().filter(|_| full.backlog.is_none()) {
        let _ = write!(
            text,
            ", {} of {} bytes of receive buffer used",
            memory.rmem, memory.rcvbuf
        );
    }
    if let Some(drops @ 1..) = full.memory.as_ref().map(|memory| memory.drops) {
        let _ = write!(text, ", {drops} dropped");
    }
    if let Some(handshakes @ 1..) = full.handshakes {
        let number = count(handshakes, "handshake", "handshakes");
        let _ = write!(text, ", {number} in progress");
    }
    text
}

/// The answer in a sentence, and what it does not cover.
fn conclusion(answer: &Answer) -> String {
    let looked = &answer.looked;
    let mut parts = Vec::new();
    for severity in Severity::ALL {
        let number = answer
            .stuck
            .iter()
            .filter(|of| of.why.severity() == severity);
        let (one, many, style) = match severity {
            Severity::Critical => ("critical", "critical", BAD),
            Severity::Warning => ("warning", "warnings", NOTE),
            Severity::Notice => ("notice", "notices", STRONG),
        };
        if let number @ 1.. = number.count() as u64 {
            parts.push(format!("{style}{}{style:#}", count(number, one, many)));
        }
    }
    let complete = looked.unread.is_empty() && looked.cut == 0 && looked.busy == 0;
    if parts.is_empty() && looked.sockets == 0 {
        // That is not the same as that nothing is stuck.
        let mut text = format!(
            "{NOTE}Nothing was judged: no socket was found{NOTE:#} among the descriptors of {}.\n",
            count(looked.processes, "process", "processes")
        );
        for sentence in looked.unread.sentences() {
            let _ = writeln!(text, "{NOTE}{sentence}{NOTE:#}");
        }
        text.push_str(&left_out(looked.cut));
        return text;
    }
    let mut text = match (parts.is_empty(), complete) {
        (false, _) => parts.join(", "),
        (true, true) => format!("{STRONG}Nothing is stuck{STRONG:#}"),
        (true, false) => {
            format!("{NOTE}Nothing stuck was found, but not everything was read:{NOTE:#} searched")
        }
    };
    let _ = write!(
        text,
        " among {} of {}",
        count(looked.sockets, "socket", "sockets"),
        count(looked.processes, "process", "processes"),
    );
    match looked.namespaces {
        Some(read) => {
            let all = read + looked.namespaces_unseen + looked.namespaces_gone;
            let _ = write!(
                text,
                "; {read} of {} read",
                count(all, "network namespace", "network namespaces")
            );
        }
        None => text.push_str("; orphans are not in saved reports"),
    }
    if looked.busy > 0 {
        let _ = write!(
            text,
            "; {NOTE}{} busy{NOTE:#}",
            count(looked.busy, "socket", "sockets")
        );
    }
    text.push_str(".\n");
    if looked.namespaces_unseen > 0 {
        let _ = writeln!(
            text,
            "{NOTE}{} of these sockets has no process: orphans there are not visible.{NOTE:#}",
            count(
                looked.namespaces_unseen,
                "network namespace",
                "network namespaces"
            )
        );
    }
    if !looked.not_judged.is_empty() {
        let kinds: Vec<String> = looked
            .not_judged
            .iter()
            .map(|(kind, number)| format!("{number} {kind}"))
            .collect();
        let number = looked.not_judged.values().sum();
        let _ = writeln!(
            text,
            "{DIM}Not judged, for want of rules: {} ({}).{DIM:#}",
            count(number, "socket", "sockets"),
            kinds.join(", ")
        );
    }
    if looked.kernel_connections > 0 {
        let _ = writeln!(
            text,
            "{DIM}{} of the kernel, or of system calls: no process holds them, \
             and nothing is wrong with them.{DIM:#}",
            count(
                looked.kernel_connections,
                "open connection",
                "open connections"
            )
        );
    }
    if looked.unexamined > 0 {
        let _ = writeln!(
            text,
            "{NOTE}{} may be shared: references were not looked up (ravel who inode:N).{NOTE:#}",
            count(looked.unexamined, "open connection", "open connections")
        );
    }
    for sentence in looked.unread.sentences() {
        let _ = writeln!(text, "{NOTE}{sentence}{NOTE:#}");
    }
    text.push_str(&left_out(looked.cut));
    text
}
