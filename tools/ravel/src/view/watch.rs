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
    "PACKET           TIME  POINT      DEV          LEN   DATA    MAC    NET  TRANS\n";

/// Puts rows together.
pub struct Rows {
    colours: bool,
    /// The network namespace whose devices need no name of a namespace.
    netns: u64,
    /// What begins and ends each.
    dim: [String; 2],
    name: [String; 2],
}

impl Rows {
    /// With colours, or without; of a command in this network namespace.
    pub fn new(colours: bool, netns: u64) -> Self {
        let ends = |style: Style| match colours {
            true => [format!("{style}"), format!("{style:#}")],
            false => Default::default(),
        };
        Self {
            colours,
            netns,
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
        self.device(text, packet);
        for (value, width) in [(packet.len, 6), (packet.data, 5)] {
            text.push_str("  ");
            right(text, value, width);
        }
        for offset in [packet.mac, packet.network, packet.transport] {
            text.push_str("  ");
            right_or_dash(text, offset.get().map(u64::from), 5);
        }
        let remark = Remark {
            packet,
            crossing,
            colours: self.colours,
            is_foreign: packet.netns != 0 && packet.netns != self.netns,
        };
        // Writing to a String does not fail.
        let _ = write!(text, "{remark}");
        text.push('\n');
    }

    /// Adds the device's name, or its number where the name is not known.
    fn device(&self, text: &mut String, packet: &Packet) {
        let begin = text.len();
        match &packet.dev {
            Some(name) => text.push_str(&plain(name)),
            None if packet.device != 0 => {
                text.push_str(itoa::Buffer::new().format(packet.device));
            }
            None => text.push('-'),
        }
        let used = text[begin..].chars().count();
        spaces(text, 8, used);
    }
}

/// TCP's flags by tcpdump's letters, in its order.
const LETTERS: [(&str, char); 9] = [
    ("fin", 'F'),
    ("syn", 'S'),
    ("rst", 'R'),
    ("psh", 'P'),
    ("ack", '.'),
    ("urg", 'U'),
    ("ece", 'E'),
    ("cwr", 'W'),
    ("ae", 'e'),
];

/// TCP's numbers, as tcpdump shows them.
struct Tcp<'p>(&'p Packet);

impl Display for Tcp<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (Some(flags), Some(window)) = (&self.0.tcp_flags, self.0.window) else {
            return Ok(());
        };
        f.write_str(", Flags [")?;
        let mut is_any = false;
        for (_, letter) in LETTERS.iter().filter(|(name, _)| flags.has(name)) {
            f.write_char(*letter)?;
            is_any = true;
        }
        if !is_any {
            f.write_str("none")?;
        }
        write!(f, "], seq {}", self.0.sequence)?;
        if let Some(ack) = self.0.ack.filter(|_| flags.has("ack")) {
            write!(f, ", ack {ack}")?;
        }
        write!(f, ", win {window}")
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
    is_foreign: bool,
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
        write!(f, "  {}{}", net::flow(packet), Tcp(packet))?;
        if packet.fragment {
            f.write_str(", fragment")?;
        }
        if self.is_foreign {
            write!(f, ", {dim}netns {}{dim:#}", packet.netns)?;
        }
        if !crossing.first {
            return Ok(());
        }
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
            Rows::new(false, 4_026_531_840).add(&mut rows, event, crossing.as_ref());
            Rows::new(true, 4_026_531_840).add(&mut coloured, event, crossing.as_ref());
        }
        assert_eq!(strip_str(&coloured).to_string(), rows);
        assert_ne!(coloured, rows);
        insta::assert_snapshot!(rows);
    }

    #[test]
    fn rows_can_be_read_on_their_own() {
        let text = "packet seq=1 attempt=1 time=1000000 cpu=0 point=transmit skb=00c0ffee00c0ffe3 \
            head=00c0ffee00c0ffe4 id=0000000000000000 inode=0 netns=4026532199 device=3 reason=none \
            location=\"\" protocol=0x0800 carries=tcp from=\"10.0.0.1:1\" to=\"10.0.0.2:2\" sequence=7 \
            len=66 data_len=0 truesize=768 copied=0 gso_size=0 gso_segs=0 data=50 tail=116 end=192 \
            mac=50:set network=64:set transport=84:set inner_mac=0:unset inner_network=0:unset \
            inner_transport=0:unset cloned=0 shared=0 fragment=0 fclone=none dev=\"vx29\" \
            tcp_flags=syn,ack,ae ack=9 window=65535";
        let line = ravel_records::Line::parse(text.as_bytes(), 1).unwrap();
        let event = Event::from_line(&line).unwrap().unwrap();
        let mut walks = Walks::new();
        walks.take(&event);
        let crossing = walks.take(&event);
        let mut row = String::new();
        Rows::new(false, 4_026_531_840).add(&mut row, &event, crossing.as_ref());
        let want = "     1       0.001000  transmit   vx29          66     50     50     64     84  \
            tcp 10.0.0.1:1 → 10.0.0.2:2, Flags [S.e], seq 7, ack 9, win 65535, netns 4026532199\n";
        assert_eq!(row, want);
        row.clear();
        Rows::new(false, 4_026_532_199).add(&mut row, &event, crossing.as_ref());
        assert!(row.ends_with("win 65535\n"), "{row}");
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
