//! `ravel sockets`: a table of the sockets, and sentences for those that are not simply open.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstream::adapter::strip_str;
use comfy_table::{Cell, Row};
use ravel_records::{Id, Linger, Shutdown, Socket, SocketDetail, SocketsReport, Text};
use unicode_width::UnicodeWidthStr;

use super::remarks::{half_closed, remarks};
use super::table::{Column, bad, dim, lines, note, number, table};
use super::{heading, left_out};
use crate::screen::{DIM, NOTE, STRONG, Screen, count, plain};

const FIRST: [(&str, Column); 5] = [
    ("FD", Column::Right),
    ("INODE", Column::Right),
    ("SOCKET", Column::Left),
    ("STATE", Column::Left),
    ("SHUT", Column::Left),
];
/// The addresses, beside each other or, where that is too wide, one above the other.
const WIDE: [(&str, Column); 2] = [("LOCAL", Column::Name), ("REMOTE", Column::Name)];
const STACKED: [(&str, Column); 1] = [("LOCAL → REMOTE", Column::Name)];
const LAST: [(&str, Column); 5] = [
    ("RX", Column::Right),
    ("TX", Column::Right),
    ("REFS", Column::Right),
    ("LINGER", Column::Right),
    ("ERR", Column::Right),
];

/// Draws the report.
pub fn draw(report: &SocketsReport, screen: &Screen) -> String {
    let mut text = heading("sockets", &report.header);
    if !report.sockets.is_empty() {
        let _ = write!(text, "\n{}", rows(report, screen));
    }
    text.push('\n');
    let said: String = report.sockets.iter().map(sentences).collect();
    if !said.is_empty() {
        text.push_str(&said);
        text.push('\n');
    }
    let counts = &report.summary;
    let _ = write!(
        text,
        "{STRONG}{}{STRONG:#} among {}",
        count(counts.sockets, "socket", "sockets"),
        count(counts.fds, "descriptor", "descriptors"),
    );
    if counts.busy > 0 {
        let _ = write!(text, ", {} busy", counts.busy);
    }
    text.push_str(".\n");
    for fds in twins(report) {
        let _ = writeln!(text, "Descriptors {fds} are one socket.");
    }
    if report.sockets.iter().any(|socket| socket.detail.is_some()) {
        let _ = writeln!(
            text,
            "{DIM}RX, TX: bytes waiting (packets). REFS: references on the open file.{DIM:#}"
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}

/// The table, in the form that fits the screen.
fn rows(report: &SocketsReport, screen: &Screen) -> String {
    let form = |screen: &Screen, stacked: bool| {
        let middle = match stacked {
            true => &STACKED[..],
            false => &WIDE[..],
        };
        let mut table = table(screen, &[&FIRST[..], middle, &LAST[..]].concat());
        for socket in &report.sockets {
            table.add_row(row(socket, stacked));
        }
        table
    };
    let natural = form(&Screen { width: None }, false);
    let wide = natural
        .lines()
        .map(|line| strip_str(&line).to_string().width());
    match screen.width {
        Some(width) if wide.max().is_some_and(|wide| wide > width) => lines(&form(screen, true), 0),
        _ => lines(&natural, 0),
    }
}

/// Family, type and protocol in short.
pub fn kind(socket: &Socket) -> String {
    let (family, r#type, protocol) = (&socket.family, &socket.r#type, &socket.protocol);
    match protocol.as_str() {
        "0" => format!("{family} {type}"),
        protocol => format!("{family} {type} {protocol}"),
    }
}

/// An address, or `-` where there is none.
pub fn address(address: &Text) -> String {
    match address.is_empty() {
        true => "-".to_owned(),
        false => plain(address),
    }
}

fn row(socket: &Socket, stacked: bool) -> Row {
    let mut cells = vec![
        Cell::new(socket.fd),
        dim(socket.inode),
        Cell::new(kind(socket)),
    ];
    let refs = number(socket.file_refs);
    let Some(detail) = &socket.detail else {
        let blanks = |number| (0..number).map(|_| dim("-"));
        cells.push(note("busy"));
        cells.extend(blanks(if stacked { 4 } else { 5 }));
        cells.push(refs);
        cells.extend(blanks(2));
        return Row::from(cells);
    };
    let marked = half_closed(detail);
    cells.push(match (detail.sk_state.as_str(), marked) {
        (word, true) => note(word),
        (word, false) => Cell::new(word),
    });
    cells.push(shut(detail, marked));
    let (local, remote) = (address(&detail.local), address(&detail.remote));
    match (stacked, detail.remote.is_empty()) {
        (true, true) => cells.push(Cell::new(local)),
        (true, false) => cells.push(Cell::new(format!("{local}\n→ {remote}"))),
        (false, _) => cells.extend([local, remote].map(Cell::new)),
    }
    cells.extend([
        queued(detail.rx_bytes, detail.rx_packets, marked),
        queued(detail.tx_bytes, detail.tx_packets, false),
        refs,
        match detail.linger {
            Linger::Off => dim("-"),
            Linger::Seconds(seconds) => Cell::new(format!("{seconds} s")),
        },
        match detail.err {
            0 => dim("-"),
            errno => bad(errno),
        },
    ]);
    Row::from(cells)
}

fn shut(detail: &SocketDetail, marked: bool) -> Cell {
    match (&detail.shutdown, marked) {
        (Shutdown::None, _) => dim("-"),
        (word, true) => note(word),
        (word, false) => Cell::new(word),
    }
}

/// Bytes, and the packets that hold them.
fn queued(bytes: u64, packets: u64, marked: bool) -> Cell {
    match (bytes, packets) {
        (0, 0) => dim("-"),
        (bytes, packets) if marked => note(format!("{bytes} ({packets})")),
        (bytes, packets) => Cell::new(format!("{bytes} ({packets})")),
    }
}

fn sentences(socket: &Socket) -> String {
    let style = match socket.detail.as_ref().is_some_and(half_closed) {
        true => NOTE,
        false => anstyle::Style::new(),
    };
    let fd = socket.fd;
    let mut text = String::new();
    for remark in remarks(socket) {
        let _ = writeln!(text, "{STRONG}fd {fd}{STRONG:#}: {style}{remark}{style:#}.");
    }
    text
}

/// Descriptors that are the same socket, each group as `5, 6`.
fn twins(report: &SocketsReport) -> Vec<String> {
    let mut fds: BTreeMap<Id, Vec<u32>> = BTreeMap::new();
    for socket in &report.sockets {
        fds.entry(socket.id).or_default().push(socket.fd);
    }
    let mut twins: Vec<Vec<u32>> = fds.into_values().filter(|fds| fds.len() > 1).collect();
    twins.sort();
    let join = |fds: &Vec<u32>| {
        fds.iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    twins.iter().map(join).collect()
}
