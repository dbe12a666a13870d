//! `ravel watch`: one row for each point that a packet comes by.

use std::fmt::Write;

use ravel_records::walks::{Crossing, Origin};
use ravel_records::{Event, Packet, Point};

use super::events::{line, net, seconds};
use crate::screen::{BAD, DIM, NAME, NOTE, count, plain};

/// What stands above the rows.
pub const HEAD: &str =
    "PACKET           TIME  POINT      DEV     LEN   DATA    MAC    NET  TRANS\n";

/// A row.
pub fn row(event: &Event, crossing: Option<&Crossing>) -> String {
    let (Event::Packet(packet), Some(crossing)) = (event, crossing) else {
        // What is lost has a line, too.
        return line(event);
    };
    let device = match packet.device {
        0 => "-".to_owned(),
        device => device.to_string(),
    };
    let mut text = format!(
        "{:>6}  {DIM}{:>13}{DIM:#}  {NAME}{:<9}{NAME:#}  {device:>3}  {:>6}  {:>5}  {:>5}  {:>5}  {:>5}",
        format!(
            "{}{}",
            crossing.packet,
            if crossing.certain { "" } else { "?" }
        ),
        seconds(packet.time),
        packet.point.as_str(),
        packet.len,
        packet.data,
        net::offset(packet.mac),
        net::offset(packet.network),
        net::offset(packet.transport),
    );
    let _ = write!(text, "{}", remark(packet, crossing));
    text.push('\n');
    text
}

fn remark(packet: &Packet, crossing: &Crossing) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = match packet.point {
        Point::Drop => {
            let location = plain(&packet.location);
            write!(
                text,
                "  {BAD}{}{BAD:#} {DIM}in {location}{DIM:#}",
                packet.reason
            )
        }
        Point::Copy => write!(text, "  {} read", count(packet.copied, "byte", "bytes")),
        _ => Ok(()),
    };
    if !crossing.first {
        return text;
    }
    let _ = write!(text, "  {}", net::flow(packet));
    if packet.gso_size > 0 {
        let _ = write!(
            text,
            ", to be cut by {}",
            count(packet.gso_size.into(), "byte", "bytes")
        );
    }
    let _ = match crossing.origin {
        Origin::Own => Ok(()),
        Origin::Clone(of) => write!(text, ", {NOTE}clone of {of}{NOTE:#}"),
        Origin::Segment(of) => write!(text, ", {NOTE}cut from {of}{NOTE:#}"),
        Origin::Unknown => write!(text, ", {NOTE}first seen here{NOTE:#}"),
    };
    text
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
        let rows: String = packets
            .map(|event| row(event, walks.take(event).as_ref()))
            .collect();
        insta::assert_snapshot!(format!("{HEAD}{}", strip_str(&rows)));
    }
}
