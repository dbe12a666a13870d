//! `ravel watch`: one row for each point that a packet comes by.
//!
//! There may be very many, so a row is put together from its pieces, without the machinery of formats, and has colours
//! only where they are wanted: to take them out again takes longer than all else.

use std::fmt::{self, Display, Formatter, Write};

use anstream::adapter::strip_str;
use anstyle::Style;
use ravel_records::walks::{Crossing, Origin};
use ravel_records::{Event, Packet, Point};

use super::events::{line, net};
use crate::screen::{BAD, DIM, NAME, NOTE, count, plain};

/// What stands above the rows.
pub const HEAD: &str =
    "PACKET           TIME  POINT      DEV     LEN   DATA    MAC    NET  TRANS\n";

/// Puts rows together.
pub struct Rows {
    colours: bool,
    /// What begins and ends each.
    dim: [String; 2],
    name: [String; 2],
}

impl Rows {
    /// With colours, or without.
    pub fn new(colours: bool) -> Self {
        let ends = |style: Style| match colours {
            true => [format!("{style}"), format!("{style:#}")],
            false => Default::default(),
        };
        Self {
            colours,
            dim: ends(DIM),
            name: ends(NAME),
        }
    }

    /// Adds a row.
    pub fn add(&self, text: &mut String, event: &Event, crossing: Option<&Crossing>) {
        let (Event::Packet(packet), Some(crossing)) = (event, crossing) else {
            // What is lost has a line, too.
            let line = line(event);
            match self.colours {
                true => text.push_str(&line),
                false => text.extend(strip_str(&line)),
            }
            return;
        };
        match crossing.certain {
            true => right(text, crossing.packet, 6),
            false => {
                right(text, crossing.packet, 5);
                text.push('?');
            }
        }
        text.push_str("  ");
        text.push_str(&self.dim[0]);
        right(text, packet.time / 1_000_000_000, 6);
        text.push('.');
        // With a digit before it, so that those behind the point are six.
        let micros = packet.time % 1_000_000_000 / 1000;
        text.push_str(&itoa::Buffer::new().format(1_000_000 + micros)[1..]);
        text.push_str(&self.dim[1]);
        text.push_str("  ");
        text.push_str(&self.name[0]);
        let point = packet.point.as_str();
        text.push_str(point);
        spaces(text, 9, point.len());
        text.push_str(&self.name[1]);
        text.push_str("  ");
        let device = (packet.device != 0).then_some(packet.device);
        right_or_dash(text, device.map(u64::from), 3);
        for (value, width) in [(packet.len, 6), (packet.data, 5)] {
            text.push_str("  ");
            right(text, value, width);
        }
        for offset in [packet.mac, packet.network, packet.transport] {
            text.push_str("  ");
            right_or_dash(text, offset.get().map(u64::from), 5);
        }
        if crossing.first || matches!(packet.point, Point::Drop | Point::Copy) {
            let remark = Remark {
                packet,
                crossing,
                colours: self.colours,
            };
            // Writing to a String does not fail.
            let _ = write!(text, "{remark}");
        }
        text.push('\n');
    }
}

/// Adds spaces behind or before what has so many columns, until it has as many as it should.
fn spaces(text: &mut String, width: usize, used: usize) {
    const SPACES: &str = "         ";
    text.push_str(SPACES.get(..width.saturating_sub(used)).unwrap_or(SPACES));
}

/// Adds a number at the right of its column.
fn right(text: &mut String, number: u64, width: usize) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number);
    spaces(text, width, digits.len());
    text.push_str(digits);
}

/// The same; a dash where there is none.
fn right_or_dash(text: &mut String, number: Option<u64>, width: usize) {
    match number {
        Some(number) => right(text, number, width),
        None => {
            spaces(text, width, 1);
            text.push('-');
        }
    }
}

/// What stands behind a row's columns.
struct Remark<'r> {
    packet: &'r Packet,
    crossing: &'r Crossing,
    colours: bool,
}

impl Display for Remark<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            packet, crossing, ..
        } = self;
        let [dim, note, bad] = match self.colours {
            true => [DIM, NOTE, BAD],
            false => Default::default(),
        };
        match packet.point {
            Point::Drop => {
                let location = plain(&packet.location);
                let reason = &packet.reason;
                write!(f, "  {bad}{reason}{bad:#} {dim}in {location}{dim:#}")?;
            }
            Point::Copy => write!(f, "  {} read", count(packet.copied, "byte", "bytes"))?,
            _ => {}
        }
        if !crossing.first {
            return Ok(());
        }
        write!(f, "  {}", net::flow(packet))?;
        if packet.gso_size > 0 {
            let size = count(packet.gso_size.into(), "byte", "bytes");
            write!(f, ", to be cut by {size}")?;
        }
        match crossing.origin {
            Origin::Own => Ok(()),
            Origin::Clone(of) => write!(f, ", {note}clone of {of}{note:#}"),
            Origin::Segment(of) => write!(f, ", {note}cut from {of}{note:#}"),
            Origin::Unknown => write!(f, ", {note}first seen here{note:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ravel_records::Batch;
    use ravel_records::walks::Walks;

    #[test]
    fn packets_as_rows() {
        let text = include_bytes!("../../../ravel-records/tests/samples/events-network.txt");
        let batch = Batch::parse(text).unwrap();
        let mut walks = Walks::new();
        let packets = batch
            .events
            .iter()
            .filter(|event| matches!(event, Event::Packet(_)));
        let (mut rows, mut coloured) = (HEAD.to_owned(), HEAD.to_owned());
        for event in packets {
            let crossing = walks.take(event);
            Rows::new(false).add(&mut rows, event, crossing.as_ref());
            Rows::new(true).add(&mut coloured, event, crossing.as_ref());
        }
        assert_eq!(strip_str(&coloured).to_string(), rows);
        assert_ne!(coloured, rows);
        insta::assert_snapshot!(rows);
    }

    #[test]
    fn what_is_too_long_moves_the_rest() {
        let mut text = String::new();
        right(&mut text, 7, 3);
        right(&mut text, 12_345, 3);
        right_or_dash(&mut text, None, 2);
        spaces(&mut text, 20, 1);
        assert_eq!(text, format!("  712345 -{}", " ".repeat(9)));
    }
}
