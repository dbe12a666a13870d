//! `ravel sharers`: a table of those who hold an open file, and what is left unnamed.

use std::fmt::Write;

use comfy_table::{Cell, Row};
use ravel_records::{Holds, Sharer, SharersReport};

use super::table::{Column, dim, lines, note, table};
use super::{heading, left_out};
use crate::screen::{NOTE, STRONG, Screen, count, plain};

const COLUMNS: [(&str, Column); 5] = [
    ("PID", Column::Right),
    ("NAME", Column::Name),
    ("FD", Column::Right),
    ("HOLDS IT", Column::Left),
    ("REFS", Column::Right),
];

/// Draws the report.
pub fn draw(report: &SharersReport, screen: &Screen) -> String {
    let (file, counts) = (&report.file, &report.summary);
    let kind = match file.socket {
        true => "socket",
        false => "file",
    };
    let mut text = heading("sharers", &report.header);
    let _ = writeln!(
        text,
        "{STRONG}fd {}{STRONG:#}: {kind}, inode {}\n",
        file.fd, file.inode
    );
    let mut table = table(screen, &COLUMNS);
    for sharer in &report.sharers {
        table.add_row(row(sharer));
    }
    if !report.sharers.is_empty() {
        text.push_str(&lines(&table, 0));
        text.push('\n');
    }
    let _ = write!(
        text,
        "{STRONG}{}{STRONG:#}: {} named",
        count(counts.refs, "reference", "references"),
        counts.named
    );
    if counts.unnamed > 0 {
        let _ = write!(
            text,
            ", {NOTE}{} not{NOTE:#} (a system call under way, or held within the kernel)",
            counts.unnamed
        );
    }
    text.push_str(".\n");
    if file.watched {
        text.push_str("An epoll set watches it, which takes no reference.\n");
    }
    if counts.moved {
        let _ = writeln!(
            text,
            "{NOTE}The references changed while they were counted: {} before.{NOTE:#}",
            counts.refs_before
        );
    }
    if counts.missed > 0 {
        let _ = writeln!(
            text,
            "{NOTE}{} could not be looked at.{NOTE:#}",
            count(counts.missed, "ring or message", "rings or messages")
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}

fn row(sharer: &Sharer) -> Row {
    let how = match sharer.holds {
        Holds::Descriptor => Cell::new("descriptor"),
        Holds::Message => note("unread messages of this unix socket"),
        Holds::Ring => note("registered with this io_uring"),
        Holds::Other(ref how) => Cell::new(how),
    };
    Row::from(vec![
        Cell::new(sharer.pid),
        Cell::new(plain(&sharer.comm)),
        Cell::new(sharer.fd),
        how,
        match sharer.counted {
            0 => dim("as above"),
            counted => Cell::new(counted),
        },
    ])
}
