//! `ravel watch`: one row for each point that a packet comes by.

use std::fmt::{self, Display, Formatter, Write};

use ravel_records::walks::{Crossing, Origin};
use ravel_records::{Event, Packet, Point};

use super::events::{OrDash, Seconds, line, net};
use crate::screen::{BAD, DIM, NAME, NOTE, count, plain};

/// What stands above the rows.
pub const HEAD: &str =
    "PACKET           TIME  POINT      DEV     LEN   DATA    MAC    NET  TRANS\n";

/// Adds a row. There may be very many, so none is put together from texts of its own.
pub fn add(text: &mut String, event: &Event, crossing: Option<&Crossing>) {
    let (Event::Packet(packet), Some(crossing)) = (event, crossing) else {
        // What is lost has a line, too.
        text.push_str(&line(event));
        return;
    };
    // Writing to a String does not fail.
    let _ = match crossing.certain {
        true => write!(text, "{:>6}", crossing.packet),
        false => write!(text, "{:>5}?", crossing.packet),
    };
    let _ = writeln!(
        text,
        "  {DIM}{}{DIM:#}  {NAME}{:<9}{NAME:#}  {:>3}  {:>6}  {:>5}  {:>5}  {:>5}  {:>5}{}",
        Seconds(packet.time),
        packet.point.as_str(),
        OrDash((packet.device != 0).then_some(packet.device)),
        packet.len,
        packet.data,
        OrDash(packet.mac.get()),
        OrDash(packet.network.get()),
        OrDash(packet.transport.get()),
        Remark(packet, crossing),
    );
}

/// What stands behind a row's columns.
struct Remark<'r>(&'r Packet, &'r Crossing);

impl Display for Remark<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(packet, crossing) = self;
        match packet.point {
            Point::Drop => {
                let location = plain(&packet.location);
                let reason = &packet.reason;
                write!(f, "  {BAD}{reason}{BAD:#} {DIM}in {location}{DIM:#}")?;
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
            Origin::Clone(of) => write!(f, ", {NOTE}clone of {of}{NOTE:#}"),
            Origin::Segment(of) => write!(f, ", {NOTE}cut from {of}{NOTE:#}"),
            Origin::Unknown => write!(f, ", {NOTE}first seen here{NOTE:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
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
        let mut rows = HEAD.to_owned();
        packets.for_each(|event| add(&mut rows, event, walks.take(event).as_ref()));
        insta::assert_snapshot!(strip_str(&rows));
    }
}
