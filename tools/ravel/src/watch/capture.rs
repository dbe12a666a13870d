//! Crossings as a capture file, for Wireshark and its kin.
//!
//! No byte of a packet is known here but what its headers said: so each crossing is an "upper PDU" without one, which is
//! Wireshark's form for what has addresses and ports, and no headers around it. Where these stand is its comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use ravel_records::walks::{Crossing, Origin};
use ravel_records::{Event, Loss, Offset, Packet, Point, Protocol, Text};

use crate::clock::Clock;
use crate::output::create_private;

/// Of epan/exported_pdu.h: what follows, in the form that a tag says.
const DISSECTOR: u16 = 12;
const IPV4: (u16, u16) = (20, 21);
const IPV6: (u16, u16) = (22, 23);
const PORT_TYPE: u16 = 24;
const PORTS: (u16, u16) = (25, 26);

/// A device, by its namespace and its number; none for what is in no device's hands.
type Device = Option<(u64, u32)>;

/// A capture file.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    devices: BTreeMap<Device, u32>,
    clock: Clock,
}

impl Capture<BufWriter<File>> {
    /// A new file that only its owner may read, in place of what is there.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(BufWriter::new(create_private(path)?), Clock::now())
    }
}

impl<W: Write> Capture<W> {
    fn new(to: W, clock: Clock) -> io::Result<Self> {
        Ok(Self {
            writer: PcapNgWriter::new(to).map_err(failed)?,
            devices: BTreeMap::new(),
            clock,
        })
    }

    /// Converts times by this clock from now on.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Writes a crossing, or a loss; other events are none of its business.
    pub fn take(&mut self, event: &Event, crossing: Option<&Crossing>) -> io::Result<()> {
        match (event, crossing) {
            (Event::Packet(packet), Some(crossing)) => self.cross(packet, crossing),
            (Event::Loss(loss), _) => self.lose(loss),
            _ => Ok(()),
        }
    }

    /// Has what was written reach the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn cross(&mut self, packet: &Packet, crossing: &Crossing) -> io::Result<()> {
        let device = (packet.device != 0).then_some((packet.netns, packet.device));
        let comment = EnhancedPacketOption::Comment(comment(packet, crossing).into());
        self.write(
            device,
            packet.time,
            &tags(packet),
            packet.len,
            vec![comment],
        )
    }

    fn lose(&mut self, loss: &Loss) -> io::Result<()> {
        let comment = format!("lost={} cpu={}", loss.count, loss.cpu);
        let options = vec![
            EnhancedPacketOption::Comment(comment.into()),
            EnhancedPacketOption::DropCount(loss.count),
        ];
        self.write(None, loss.time, &head(), 0, options)
    }

    fn write(
        &mut self,
        device: Device,
        time: u64,
        tags: &[u8],
        len: u64,
        options: Vec<EnhancedPacketOption<'_>>,
    ) -> io::Result<()> {
        let block = EnhancedPacketBlock {
            interface_id: self.interface(device)?,
            timestamp: Duration::from_nanos(self.clock.real_ns(time)),
            original_len: (tags.len() as u64 + len) as u32,
            data: tags.into(),
            options,
        };
        self.writer.write_pcapng_block(block).map_err(failed)?;
        Ok(())
    }

    fn interface(&mut self, device: Device) -> io::Result<u32> {
        if let Some(number) = self.devices.get(&device) {
            return Ok(*number);
        }
        let name = device.map_or("none".to_owned(), |(netns, device)| {
            format!("device {device} of netns {netns}")
        });
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::WIRESHARK_UPPER_PDU,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(name.into()),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(failed)?;
        let number = self.devices.len() as u32;
        self.devices.insert(device, number);
        Ok(number)
    }
}

fn failed(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::other(error),
    }
}

/// What stands where, as the table has it, by the keys of the format.
fn comment(packet: &Packet, crossing: &Crossing) -> String {
    let mut text = format!(
        "packet={} point={} certain={}",
        crossing.packet,
        packet.point,
        u8::from(crossing.certain)
    );
    // Writing to a String does not fail.
    let _ = match crossing.origin {
        Origin::Own => Ok(()),
        Origin::Clone(of) => write!(text, " clone_of={of}"),
        Origin::Segment(of) => write!(text, " segment_of={of}"),
        Origin::Unknown => write!(text, " origin=unknown"),
    };
    let _ = write!(
        text,
        " skb={} head={} len={} data={} tail={} end={}",
        packet.skb, packet.head, packet.len, packet.data, packet.tail, packet.end
    );
    let headers: [(&str, Offset); 6] = [
        ("mac", packet.mac),
        ("network", packet.network),
        ("transport", packet.transport),
        ("inner_mac", packet.inner_mac),
        ("inner_network", packet.inner_network),
        ("inner_transport", packet.inner_transport),
    ];
    for (name, offset) in headers {
        if let Some(at) = offset.get() {
            let _ = write!(text, " {name}={at}");
        }
    }
    if packet.point == Point::Drop {
        let _ = write!(
            text,
            " reason={} location={}",
            packet.reason, packet.location
        );
    }
    text
}

/// Nothing is to be made of the bytes behind the tags.
fn head() -> Vec<u8> {
    let mut tags = Vec::new();
    tag(&mut tags, DISSECTOR, b"data");
    tag(&mut tags, 0, &[]);
    tags
}

/// The ends of a packet.
fn tags(packet: &Packet) -> Vec<u8> {
    let mut tags = Vec::new();
    tag(&mut tags, DISSECTOR, b"data");
    let both = [&packet.from, &packet.to].map(end);
    if let [Some((from, _)), Some((to, _))] = both {
        for (end, (four, six)) in [(from, (IPV4.0, IPV6.0)), (to, (IPV4.1, IPV6.1))] {
            match end {
                IpAddr::V4(address) => tag(&mut tags, four, &address.octets()),
                IpAddr::V6(address) => tag(&mut tags, six, &address.octets()),
            }
        }
    }
    // Wireshark's numbers of them.
    let port_type = match packet.carries {
        Protocol::Sctp => Some(1u32),
        Protocol::Tcp => Some(2),
        Protocol::Udp => Some(3),
        _ => None,
    };
    if let (Some(number), [Some((_, Some(from))), Some((_, Some(to)))]) = (port_type, both) {
        tag(&mut tags, PORT_TYPE, &number.to_be_bytes());
        tag(&mut tags, PORTS.0, &u32::from(from).to_be_bytes());
        tag(&mut tags, PORTS.1, &u32::from(to).to_be_bytes());
    }
    tag(&mut tags, 0, &[]);
    tags
}

fn tag(tags: &mut Vec<u8>, number: u16, value: &[u8]) {
    let len = value.len().next_multiple_of(4);
    tags.extend(number.to_be_bytes());
    tags.extend((len as u16).to_be_bytes());
    tags.extend(value);
    tags.resize(tags.len() + len - value.len(), 0);
}

/// An address, and its port where it has one.
fn end(text: &Text) -> Option<(IpAddr, Option<u16>)> {
    match text.socket_address() {
        Some(end) => Some((end.ip(), Some(end.port()))),
        None => Some((
            std::str::from_utf8(text.as_bytes()).ok()?.parse().ok()?,
            None,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};
    use ravel_records::Batch;
    use ravel_records::walks::Walks;

    #[test]
    fn what_is_written_can_be_read() {
        let text = include_bytes!("../../../ravel-records/tests/samples/events-network.txt");
        let batch = Batch::parse(text).unwrap();
        let mut walks = Walks::new();
        let mut capture = Capture::new(Vec::new(), Clock::with_offset(1_000_000_000_000)).unwrap();
        for event in &batch.events {
            let crossing = walks.take(event);
            capture.take(event, crossing.as_ref()).unwrap();
        }
        capture.flush().unwrap();
        let bytes = capture.writer.into_inner();
        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let (mut names, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(device) => {
                    assert_eq!(device.linktype, DataLink::WIRESHARK_UPPER_PDU);
                    for option in device.options {
                        if let InterfaceDescriptionOption::IfName(name) = option {
                            names.push(name.into_owned());
                        }
                    }
                }
                Block::EnhancedPacket(packet) => {
                    let EnhancedPacketOption::Comment(comment) = &packet.options[0] else {
                        panic!("{packet:?}");
                    };
                    packets.push((packet.timestamp, comment.clone().into_owned()));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, ["device 1 of netns 4026531840", "none"]);
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].0, Duration::from_nanos(5_119_800_007_000));
        assert_eq!(
            packets[0].1,
            "packet=1 point=ip certain=1 origin=unknown skb=00c0ffee00c0ffe3 head=00c0ffee00c0ffe4 \
             len=41 data=64 tail=105 end=192 mac=50 network=64 transport=84"
        );
        assert!(
            packets[1]
                .1
                .ends_with(" reason=NO_SOCKET location=__udp4_lib_rcv+0x9c1")
        );
    }
}
