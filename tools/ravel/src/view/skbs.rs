//! `ravel skbs`: each socket's queues, each queue a table of its sk_buffs.

use std::fmt::Write;

use comfy_table::{Cell, Row};
use ravel_records::{EtherType, Offset, Queue, Skb, SkbsReport, SocketQueues};

use super::sockets::{address, kind};
use super::table::{Column, dim, lines, note, number, table};
use super::{heading, left_out};
use crate::screen::{DIM, NOTE, STRONG, Screen, count};

const COLUMNS: [(&str, Column); 15] = [
    ("POS", Column::Right),
    ("LEN", Column::Right),
    ("PAGED", Column::Right),
    ("TRUESIZE", Column::Right),
    ("DATA", Column::Right),
    ("TAIL", Column::Right),
    ("END", Column::Right),
    ("MAC", Column::Right),
    ("NET", Column::Right),
    ("TRANS", Column::Right),
    ("PROTO", Column::Left),
    ("FRAGS", Column::Left),
    ("CLONED", Column::Right),
    ("SEQ", Column::Right),
    ("END SEQ", Column::Right),
];
/// The columns that are there for TCP alone.
const TCP: usize = 2;

/// Draws the report; with `raw`, unset offsets as the kernel keeps them.
pub fn draw(report: &SkbsReport, raw: bool, screen: &Screen) -> String {
    let mut text = heading("sk_buffs", &report.header);
    for of in &report.sockets {
        text.push('\n');
        socket(&mut text, of, raw, screen);
    }
    let counts = &report.summary;
    let _ = write!(
        text,
        "\n{STRONG}{}{STRONG:#} in {} of {}, among {}",
        count(counts.skbs, "sk_buff", "sk_buffs"),
        count(counts.queues, "queue", "queues"),
        count(counts.sockets, "socket", "sockets"),
        count(counts.fds, "descriptor", "descriptors"),
    );
    if counts.busy > 0 {
        let _ = write!(text, ", {} busy", counts.busy);
    }
    text.push_str(".\n");
    if counts.skbs > 0 {
        let _ = writeln!(
            text,
            "{DIM}DATA to TRANS: bytes from the buffer's head; - where no layer set the header. \
             PAGED: bytes outside the linear part.{DIM:#}"
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}

fn socket(text: &mut String, of: &SocketQueues, raw: bool, screen: &Screen) {
    let socket = &of.socket;
    let _ = write!(text, "{STRONG}fd {}{STRONG:#}  {}", socket.fd, kind(socket));
    let Some(detail) = &socket.detail else {
        let _ = writeln!(text, "  {NOTE}busy{NOTE:#}");
        return;
    };
    let (local, remote) = (address(&detail.local), address(&detail.remote));
    let _ = write!(text, "  {}  {local} → {remote}", detail.sk_state);
    let (full, empty): (Vec<_>, Vec<_>) = of.queues.iter().partition(|queue| queue.packets > 0);
    let empty: Vec<_> = empty.iter().map(|queue| queue.name.as_str()).collect();
    if !empty.is_empty() {
        let _ = write!(text, "  {DIM}(empty: {}){DIM:#}", empty.join(", "));
    }
    text.push('\n');
    for queue in full {
        draw_queue(text, queue, raw, screen);
    }
}

fn draw_queue(text: &mut String, queue: &Queue, raw: bool, screen: &Screen) {
    let packets = count(queue.packets, "packet", "packets");
    let _ = write!(text, "  {STRONG}{}{STRONG:#}: {packets}", queue.name);
    if queue.packets > queue.skbs.len() as u64 {
        let _ = write!(text, ", {NOTE}the first {} here{NOTE:#}", queue.skbs.len());
    }
    text.push('\n');
    if queue.skbs.is_empty() {
        return;
    }
    let tcp = queue.skbs.iter().any(|skb| skb.seq.is_some());
    let columns = match tcp {
        true => &COLUMNS[..],
        false => &COLUMNS[..COLUMNS.len() - TCP],
    };
    let narrower = Screen {
        width: screen.width.map(|width| width.saturating_sub(4)),
    };
    let mut table = table(&narrower, columns);
    for skb in &queue.skbs {
        table.add_row(row(skb, raw, tcp));
    }
    text.push_str(&lines(&table, 4));
}

fn row(skb: &Skb, raw: bool, tcp: bool) -> Row {
    let mut cells = vec![
        Cell::new(skb.pos),
        Cell::new(skb.len),
        number(skb.data_len),
        dim(skb.truesize),
        Cell::new(skb.data),
        Cell::new(skb.tail),
        dim(skb.end),
        offset(skb.mac, raw),
        offset(skb.network, raw),
        offset(skb.transport, raw),
        protocol(skb.protocol),
        match (skb.frags, skb.frag_list) {
            (0, false) => dim("0"),
            (frags, false) => Cell::new(frags),
            (frags, true) => note(format!("{frags} + list")),
        },
        match skb.cloned {
            true => note("yes"),
            false => dim("no"),
        },
    ];
    if tcp {
        cells.extend([skb.seq, skb.end_seq].map(|seq| seq.map_or(dim("-"), Cell::new)));
    }
    Row::from(cells)
}

fn offset(offset: Offset, raw: bool) -> Cell {
    match offset.get() {
        Some(bytes) => Cell::new(bytes),
        None if raw => dim(format!("- ({})", offset.raw)),
        None => dim("-"),
    }
}

fn protocol(protocol: EtherType) -> Cell {
    match protocol.name() {
        Some(name) => Cell::new(name),
        None if protocol == EtherType::default() => dim("-"),
        None => Cell::new(protocol),
    }
}
