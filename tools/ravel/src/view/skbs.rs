//! `ravel skbs`: each socket's queues, each queue a table of its sk_buffs.

use std::fmt::Write;

use comfy_table::{Cell, Row};
use ravel_records::{EtherType, Offset, Queue, Skb, SkbsReport, SocketQueues};

use super::sockets::{address, kind};
use super::table::{Column, dim, lines, note, number, table};
use super::{heading, left_out};
use crate::screen::{DIM, NOTE, STRONG, Screen, count};

const COLUMNS: [(&str, Column); 16] = [
    ("ID", Column::Left),
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

/// What to show beside the rest.
pub struct Options {
    /// Unset offsets as the kernel keeps them.
    pub raw: bool,
    /// The ids.
    pub ids: bool,
}

/// Draws the report.
pub fn draw(report: &SkbsReport, options: &Options, screen: &Screen) -> String {
    let mut text = heading("sk_buffs", &report.header);
    for of in &report.sockets {
        text.push('\n');
        socket(&mut text, of, options, screen);
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

fn socket(text: &mut String, of: &SocketQueues, options: &Options, screen: &Screen) {
    let socket = &of.socket;
    let _ = write!(text, "{STRONG}fd {}{STRONG:#}  {}", socket.fd, kind(socket));
    let Some(detail) = &socket.detail else {
        let _ = writeln!(text, "  {NOTE}busy{NOTE:#}");
        for queue in of.queues.iter().filter(|queue| queue.packets > 0) {
            draw_queue(text, queue, options, screen);
        }
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
        draw_queue(text, queue, options, screen);
    }
}

fn draw_queue(text: &mut String, queue: &Queue, options: &Options, screen: &Screen) {
    let packets = count(queue.packets, "packet", "packets");
    let _ = write!(text, "  {STRONG}{}{STRONG:#}: {packets}", queue.name);
    if queue.child.is_some() {
        let _ = write!(text, " of a connection that nobody has accepted");
    }
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
    let columns = &columns[usize::from(!options.ids)..];
    let narrower = Screen {
        width: screen.width.map(|width| width.saturating_sub(4)),
    };
    let mut table = table(&narrower, columns);
    for skb in &queue.skbs {
        let mut cells = row(skb, options.raw, tcp);
        if options.ids {
            cells.insert(0, dim(skb.id));
        }
        table.add_row(Row::from(cells));
    }
    text.push_str(&lines(&table, 4));
}

fn row(skb: &Skb, raw: bool, tcp: bool) -> Vec<Cell> {
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
        protocol(skb),
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
    cells
}

fn offset(offset: Offset, raw: bool) -> Cell {
    match offset.get() {
        Some(bytes) => Cell::new(bytes),
        None if raw => dim(format!("- ({})", offset.raw)),
        None => dim("-"),
    }
}

/// The protocol, and the VLAN tag that is kept beside the bytes.
fn protocol(skb: &Skb) -> Cell {
    let name = |kind: EtherType| match kind.name() {
        Some(name) => name.to_owned(),
        None => kind.to_string(),
    };
    match (skb.vlan_proto, skb.vlan_tci) {
        (Some(kind), Some(tci)) => {
            let tag = format!("{} {}", name(kind), tci.0 & 0xfff);
            note(format!("{} in {tag}", name(skb.protocol)))
        }
        _ if skb.protocol == EtherType::default() => dim("-"),
        _ => Cell::new(name(skb.protocol)),
    }
}
