//! `ravel sockets`: how many sockets need attention, then a table with those first.

use std::collections::BTreeMap;
use std::fmt::Write;

use ravel_records::{
    Family, Protocol, SkState, Socket, SocketDetail, SocketKind, SocketsReport, Text,
};

use super::listing::{Cell, Column, Listing};
use super::remarks::{Remark, half_closed, remarks};
use super::{left_out, subject};
use crate::cli;
use crate::command::Failure;
use crate::identity::{Process, Processes, cut_end};
use crate::screen::{BAD, DIM, NOTE, STRONG, Screen, count, plain};
use crate::sweep::Key;

/// Sockets that are shown unless more are asked for.
const FEW: usize = 20;

const COLUMNS: [Column; 12] = [
    Column::words(""),
    Column::words("FD"),
    Column::words("PROTO"),
    Column::words("STATE"),
    Column::words("SHUT").spare(3),
    Column::numbers("RECV-Q"),
    Column::numbers("SEND-Q").spare(1),
    Column::words("LOCAL"),
    Column::words("PEER"),
    Column::numbers("REFS").spare(2),
    Column::numbers("INODE").spare(4),
    Column::numbers("NETNS").hidden(),
];

/// Draws the report.
pub fn draw(
    report: &SocketsReport,
    processes: Option<&Processes>,
    args: &cli::Sockets,
    screen: &Screen,
) -> Result<String, Failure> {
    let mut sockets: Vec<(Vec<u32>, &Socket)> = Vec::new();
    let mut places: BTreeMap<Key, usize> = BTreeMap::new();
    for socket in &report.sockets {
        let place = *places.entry((socket.id, socket.inode)).or_insert_with(|| {
            sockets.push((Vec::new(), socket));
            sockets.len() - 1
        });
        let (fds, known) = &mut sockets[place];
        fds.push(socket.fd);
        // Through one descriptor it may have been busy, and not through another.
        if known.detail.is_none() {
            *known = socket;
        }
    }
    let mut rows: Vec<(Vec<u32>, &Socket, Vec<Remark>)> = sockets
        .into_iter()
        .map(|(fds, socket)| (fds, socket, remarks(socket)))
        .collect();
    let warns = |said: &[Remark]| said.iter().any(|remark| remark.warns);
    let warnings = rows.iter().filter(|(.., said)| warns(said)).count() as u64;
    let mut text = subject(&report.header);
    let process = processes.and_then(|known| known.get(report.header.pid));
    if let Some(place) = process.and_then(Process::place) {
        let _ = write!(text, " ({place})");
    }
    let _ = write!(
        text,
        ": {STRONG}{}{STRONG:#}",
        count(rows.len() as u64, "socket", "sockets")
    );
    let style = if warnings > 0 { NOTE } else { DIM };
    let _ = write!(
        text,
        ", {style}{}{style:#}",
        count(warnings, "warning", "warnings")
    );
    let shared = report.sockets.len() - rows.len();
    if shared > 0 {
        let _ = write!(
            text,
            ", {} more of the same",
            count(shared as u64, "descriptor", "descriptors")
        );
    }
    if report.summary.busy > 0 {
        let _ = write!(text, ", {NOTE}{} busy{NOTE:#}", report.summary.busy);
    }
    text.push('\n');
    text.push_str(&identity(process, screen));
    if rows.is_empty() {
        text.push_str(&left_out(report.summary.cut));
        return Ok(text);
    }
    rows.sort_by_key(|(fds, _, said)| (!warns(said), fds.clone()));
    let mut listing = Listing::new(&COLUMNS, FEW);
    for (fds, socket, said) in &rows {
        listing.add(row(fds, socket, warns(said)), note(said));
    }
    text.push_str(&listing.draw(&args.rows, screen, |_| Vec::new())?);
    let _ = writeln!(
        text,
        "{DIM}!: see the remark. RECV-Q of LISTEN: connections/backlog. More: --why, --waiters, --all, --columns.{DIM:#}"
    );
    text.push_str(&left_out(report.summary.cut));
    Ok(text)
}

/// Who a process is, in a line below its name; nothing where that is not known.
pub fn identity(process: Option<&Process>, screen: &Screen) -> String {
    process.map_or_else(String::new, |process| {
        let mut said = process.particulars();
        said.push(process.command());
        let line = cut_end(&said.join(", "), screen.width);
        format!("{DIM}{line}{DIM:#}\n")
    })
}

/// Family, type and protocol in full.
pub fn kind(socket: &Socket) -> String {
    let (family, r#type, protocol) = (&socket.family, &socket.r#type, &socket.protocol);
    match protocol.as_str() {
        "0" => format!("{family} {type}"),
        protocol => format!("{family} {type} {protocol}"),
    }
}

/// The same in one word.
pub fn proto(family: &Family, r#type: &SocketKind, protocol: &Protocol) -> String {
    let six = if *family == Family::Inet6 { "6" } else { "" };
    match (family, protocol.as_str()) {
        (Family::Inet | Family::Inet6, "0") => format!("{type}{six}"),
        (Family::Inet | Family::Inet6, protocol) => format!("{protocol}{six}"),
        (Family::Unix, _) if *r#type == SocketKind::Stream => "unix".to_owned(),
        (Family::Unix, _) => format!("unix-{type}"),
        (family, "0") => family.to_string(),
        (family, protocol) => format!("{family}-{protocol}"),
    }
}

/// An address, or `-` where there is none.
pub fn address(address: &Text) -> String {
    match address.is_empty() {
        true => "-".to_owned(),
        false => plain(address),
    }
}

/// The state in the words of the socket's own protocol: others than TCP borrow TCP's.
pub fn state(socket: &Socket, detail: &SocketDetail) -> String {
    let is_tcp = matches!(
        socket.protocol,
        Protocol::Tcp | Protocol::Mptcp | Protocol::Sctp
    );
    match (&detail.sk_state, is_tcp) {
        (SkState::Established, false) => "connected".to_owned(),
        (SkState::Close, false) => "unconnected".to_owned(),
        (state, _) => state.to_string(),
    }
}

fn row(fds: &[u32], socket: &Socket, warns: bool) -> Vec<Cell> {
    let mark = match warns {
        true => Cell::styled("!", BAD),
        false => Cell::default(),
    };
    let list: Vec<String> = fds.iter().map(u32::to_string).collect();
    let mut cells = vec![
        mark,
        Cell::new(list.join(",")).by(u64::MAX - u64::from(fds[0])),
        Cell::new(proto(&socket.family, &socket.r#type, &socket.protocol)),
    ];
    let refs = u64::try_from(socket.file_refs).unwrap_or(0);
    let last = [
        Cell::number(refs, refs.to_string()),
        Cell::styled(socket.inode.to_string(), DIM).by(socket.inode),
        Cell::styled(socket.netns.to_string(), DIM).by(socket.netns),
    ];
    let Some(detail) = &socket.detail else {
        cells.push(Cell::styled("busy", NOTE));
        cells.extend((0..5).map(|_| Cell::none()));
        cells.extend(last);
        return cells;
    };
    let style = if half_closed(detail) {
        NOTE
    } else {
        anstyle::Style::new()
    };
    cells.push(Cell::styled(state(socket, detail), style));
    cells.push(match detail.shutdown.as_str() {
        "none" => Cell::none(),
        word => Cell::styled(word, style),
    });
    cells.push(match detail.sk_state {
        SkState::Listen => {
            let full = detail.rx_packets > detail.backlog;
            let style = if full { BAD } else { anstyle::Style::new() };
            Cell::styled(format!("{}/{}", detail.rx_packets, detail.backlog), style)
                .by(detail.rx_packets)
        }
        _ => Cell::number(detail.rx_bytes, detail.rx_bytes.to_string()),
    });
    cells.push(Cell::number(detail.tx_bytes, detail.tx_bytes.to_string()));
    cells.push(Cell::new(address(&detail.local)));
    cells.push(Cell::new(peer(detail)));
    cells.extend(last);
    cells
}

/// The other end's address or, where it has none, its inode.
fn peer(detail: &SocketDetail) -> String {
    match (&detail.other, detail.remote.is_empty()) {
        (_, false) => plain(&detail.remote),
        (Some(peer), true) if peer.peer_inode != 0 => format!("inode:{}", peer.peer_inode),
        _ => "-".to_owned(),
    }
}

fn note(said: &[Remark]) -> String {
    let said: Vec<String> = said
        .iter()
        .map(|remark| match remark.warns {
            true => format!("{NOTE}{}{NOTE:#}", remark.text),
            false => remark.text.clone(),
        })
        .collect();
    said.join("; ")
}
