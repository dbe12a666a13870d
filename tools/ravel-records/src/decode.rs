//! What the headers of an sk_buff say, and where its offsets say something else.
//!
//! The module tells bytes; what they mean is worked out here. A header that is not whole, or not what it should be by
//! the one before it, ends the walk.

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice,
    SingleVlanHeaderSlice, TcpHeaderSlice, TcpOptionElement, UdpHeaderSlice,
};
use serde::Serialize;

use crate::{EtherType, HeaderBytes, Skb};

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its protocol, such as `IPv4`.
    pub name: &'static str,
    /// Bytes from the sk_buff's `head`.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// What it says.
    pub says: String,
}

impl Layer {
    /// Bytes from the sk_buff's `head` to behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// The headers of an sk_buff.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decoded {
    /// In the order of their bytes.
    pub layers: Vec<Layer>,
    /// Where offsets, fields and bytes do not agree: a sentence for each.
    pub disagreements: Vec<String>,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Ethernet,
    Network(u16),
    Extension(u8),
    Transport(u8),
    Vxlan,
    End,
}

/// A header at the beginning of some bytes: its name, its length, what it says, and what it says of what is next.
type Step = (&'static str, usize, String, Next);

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const BRIDGED: u16 = 0x6558;
const VXLAN_PORT: u16 = 4789;

impl Decoded {
    /// Reads the headers of an sk_buff.
    pub fn of(skb: &Skb) -> Self {
        let mut decoded = Self::default();
        for (index, header) in skb.headers.iter().enumerate() {
            decoded.read(skb, header, index > 0);
        }
        decoded.compare(skb);
        decoded
    }

    /// The header that begins at a place.
    pub fn at(&self, offset: u64) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.offset == offset)
    }

    /// Where what is known of headers ends.
    fn end(&self) -> Option<u64> {
        self.layers.last().map(Layer::end)
    }

    /// Whether the last header is one that only payload follows.
    fn is_whole(&self) -> bool {
        let last = self.layers.last().map(|layer| layer.name);
        matches!(last, Some("TCP" | "UDP" | "ICMP" | "ICMPv6" | "SCTP"))
    }

    fn read(&mut self, skb: &Skb, header: &HeaderBytes, inner: bool) {
        let network = if inner {
            skb.inner_network
        } else {
            skb.network
        };
        let link = u64::from(network.raw).saturating_sub(header.offset) as usize;
        let protocol = match inner {
            true => skb.inner_protocol.unwrap_or_default(),
            false => skb.protocol,
        };
        let bytes = &header.bytes.0;
        let mut at = 0;
        let mut next = Next::Network(protocol.0);
        if link == 14 {
            next = Next::Ethernet;
        } else if let Some(bytes) = bytes.get(..link).filter(|bytes| !bytes.is_empty()) {
            // A tunnel leaves what it took off as the link layer of what it carried.
            at = link;
            let says = format!("{} bytes of a link layer or of a tunnel", bytes.len());
            self.push("link layer", header.offset, link, says);
        }
        while let Some((name, len, says, then)) = bytes.get(at..).and_then(|rest| step(next, rest))
        {
            if at + len > bytes.len() {
                break;
            }
            self.push(name, header.offset.saturating_add(at as u64), len, says);
            at += len;
            if name == "Ethernet" && at == link && then != Next::Network(protocol.0) {
                let says = match then {
                    Next::Network(kind) => format!("EtherType {}", EtherType(kind)),
                    _ => "a length".to_owned(),
                };
                // A VLAN tag that was taken off left the type of what is behind it.
                self.disagreements.push(format!(
                    "the Ethernet header has {says}, `protocol` is {protocol}"
                ));
                next = Next::Network(protocol.0);
                continue;
            }
            next = then;
        }
    }

    fn push(&mut self, name: &'static str, offset: u64, len: usize, says: String) {
        self.layers.push(Layer {
            name,
            offset,
            len: len as u64,
            says,
        });
    }

    /// Compares the offsets with where headers were found.
    fn compare(&mut self, skb: &Skb) {
        let tunnel = skb.flags.has("encapsulation");
        for (name, offset) in skb.offsets() {
            let Some(at) = offset.get().map(u64::from) else {
                continue;
            };
            if !skb.holds(offset) {
                let end = skb.end;
                self.disagreements.push(format!(
                    "{name} is {at}, outside of the buffer, which ends at {end}"
                ));
                continue;
            }
            // Without a tunnel, what is inner is of before; behind the last header that is known there may be others,
            // but not behind one that has none behind it.
            let begun = self.layers.first().is_some_and(|first| first.offset <= at);
            let ended = self.end().is_none_or(|end| at > end);
            let known = begun && (!ended || (name == "transport" && self.is_whole()));
            if !known || (name.starts_with("inner") && !tunnel) {
                continue;
            }
            self.compare_one(skb, name, at);
        }
        let total = self.layers.iter().find(|layer| layer.name == "IPv4");
        if let (Some(layer), Some(first)) = (total, skb.headers.first()) {
            let from = layer.offset.saturating_sub(first.offset) as usize;
            let field = first.bytes.0.get(from..).and_then(|bytes| bytes.get(2..4));
            let says = field.map_or(0, |field| {
                u64::from(u16::from_be_bytes([field[0], field[1]]))
            });
            let there = skb
                .data
                .saturating_add(skb.len)
                .saturating_sub(layer.offset);
            if says > there {
                self.disagreements.push(format!(
                    "the IPv4 header says {says} bytes, the sk_buff has {there} from there on"
                ));
            }
        }
    }

    fn compare_one(&mut self, skb: &Skb, name: &str, at: u64) {
        let found = self.at(at).map(|layer| layer.name);
        let complaint = match (name, found) {
            ("network", None) => match EtherType::name(skb.protocol) {
                Some(protocol) => format!("no {protocol} header stands there, as `protocol` says"),
                None => return,
            },
            (
                "transport" | "inner_transport",
                Some(network @ ("IPv4" | "IPv6" | "ARP" | "VLAN")),
            ) => {
                format!(
                    "the {network} header begins there: nobody has looked for what is behind it"
                )
            }
            ("transport" | "inner_transport", None) => {
                match self.layers.iter().rev().find(|l| l.offset < at) {
                    // It ends where the next one should begin, which is not known.
                    Some(layer) if layer.end() == at => return,
                    Some(layer) => format!(
                        "the {} header is at {} to {}, and none begins there",
                        layer.name,
                        layer.offset,
                        layer.end()
                    ),
                    None => return,
                }
            }
            (_, None) => "no header that is known begins there".to_owned(),
            _ => return,
        };
        self.disagreements
            .push(format!("{name} is {at}: {complaint}"));
    }
}

fn step(next: Next, bytes: &[u8]) -> Option<Step> {
    match next {
        Next::Ethernet => {
            let header = Ethernet2HeaderSlice::from_slice(bytes).ok()?;
            let kind = header.ether_type().0;
            let (from, to) = (mac(&header.source()), mac(&header.destination()));
            let says = format!("{from} → {to}, type {}", ether_type(kind));
            let then = if kind < 0x600 {
                Next::End
            } else {
                Next::Network(kind)
            };
            Some(("Ethernet", 14, says, then))
        }
        Next::Network(IPV4) => ipv4(bytes),
        Next::Network(IPV6) => ipv6(bytes),
        Next::Network(ARP) => arp(bytes),
        Next::Network(0x8100 | 0x88a8) => {
            let header = SingleVlanHeaderSlice::from_slice(bytes).ok()?;
            let kind = header.ether_type().0;
            let says = format!(
                "VLAN {}, priority {}, type {}",
                header.vlan_identifier().value(),
                header.priority_code_point().value(),
                ether_type(kind)
            );
            Some(("VLAN", 4, says, Next::Network(kind)))
        }
        Next::Network(BRIDGED) => step(Next::Ethernet, bytes),
        Next::Extension(protocol) => extension(protocol, bytes),
        Next::Transport(protocol) => transport(protocol, bytes),
        Next::Vxlan => {
            let header: &[u8; 8] = bytes.first_chunk()?;
            let is = header[0] == 8 && header[1..4] == [0; 3] && header[7] == 0;
            let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
            is.then(|| ("VXLAN", 8, format!("network {vni}"), Next::Ethernet))
        }
        Next::Network(_) | Next::End => None,
    }
}

fn ipv4(bytes: &[u8]) -> Option<Step> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    let mut says = format!(
        "{} → {}, {}, {} bytes, TTL {}",
        header.source_addr(),
        header.destination_addr(),
        ip_number(header.protocol()),
        header.total_len(),
        header.ttl()
    );
    if header.more_fragments() || header.fragments_offset().value() > 0 {
        says += &format!(", fragment at {}", header.fragments_offset().value() * 8);
    }
    if !header.options().is_empty() {
        says += &format!(", {} bytes of options", header.options().len());
    }
    let then = match header.fragments_offset().value() {
        0 => Next::Transport(header.protocol().0),
        _ => Next::End,
    };
    Some(("IPv4", header.slice().len(), says, then))
}

fn ipv6(bytes: &[u8]) -> Option<Step> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let says = format!(
        "{} → {}, {}, {} bytes behind it, hop limit {}",
        header.source_addr(),
        header.destination_addr(),
        ip_number(header.next_header()),
        header.payload_length(),
        header.hop_limit()
    );
    Some(("IPv6", 40, says, Next::Extension(header.next_header().0)))
}

fn arp(bytes: &[u8]) -> Option<Step> {
    let packet = ArpPacketSlice::from_slice(bytes).ok()?.to_packet();
    let len = packet.packet_len();
    let address = |bytes: &[u8]| match bytes {
        [a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
        bytes => mac(bytes),
    };
    let (from, to) = (
        address(packet.sender_protocol_addr()),
        address(packet.target_protocol_addr()),
    );
    let says = match packet.operation.0 {
        1 => format!("who has {to}? asks {from}"),
        2 => format!("{from} is at {}", mac(packet.sender_hw_addr())),
        other => format!("operation {other}, {from} to {to}"),
    };
    Some(("ARP", len, says, Next::End))
}

fn extension(protocol: u8, bytes: &[u8]) -> Option<Step> {
    let head: &[u8; 8] = match protocol {
        0 | 43 | 44 | 60 => bytes.first_chunk()?,
        _ => return transport(protocol, bytes),
    };
    let then = Next::Extension(head[0]);
    let next = ip_number(IpNumber(head[0]));
    let len = (usize::from(head[1]) + 1) * 8;
    Some(match protocol {
        0 => ("hop-by-hop options", len, format!("then {next}"), then),
        43 => (
            "routing",
            len,
            format!("type {}, then {next}", head[2]),
            then,
        ),
        60 => ("destination options", len, format!("then {next}"), then),
        _ => {
            let offset = u16::from_be_bytes([head[2], head[3]]) & 0xfff8;
            let then = if offset == 0 { then } else { Next::End };
            ("fragment", 8, format!("at {offset}, then {next}"), then)
        }
    })
}

fn transport(protocol: u8, bytes: &[u8]) -> Option<Step> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    match protocol {
        4 => ipv4(bytes),
        41 => ipv6(bytes),
        6 => tcp(bytes),
        17 => {
            let header = UdpHeaderSlice::from_slice(bytes).ok()?;
            let says = format!(
                "{} → {}, {} bytes",
                header.source_port(),
                header.destination_port(),
                header.length()
            );
            let then = match header.destination_port() {
                VXLAN_PORT => Next::Vxlan,
                _ => Next::End,
            };
            Some(("UDP", 8, says, then))
        }
        1 | 58 => {
            let head: &[u8; 8] = bytes.first_chunk()?;
            let name = if protocol == 1 { "ICMP" } else { "ICMPv6" };
            let says = format!("type {}, code {}", head[0], head[1]);
            Some((name, 8, says, Next::End))
        }
        47 => {
            let flags = word(0)?;
            if flags & 0x4007 != 0 {
                return None;
            }
            let mut len = 4;
            let mut says = format!("carries {}", ether_type(word(2)?));
            for (bit, name) in [(0x8000, "checksum"), (0x2000, "key"), (0x1000, "sequence")] {
                if flags & bit != 0 {
                    let value = (u32::from(word(len)?) << 16) | u32::from(word(len + 2)?);
                    says += &format!(", {name} {value}");
                    len += 4;
                }
            }
            Some(("GRE", len, says, Next::Network(word(2)?)))
        }
        51 => {
            let then = Next::Transport(*bytes.first()?);
            let len = (usize::from(*bytes.get(1)?) + 2) * 4;
            Some(("AH", len, ip_number(IpNumber(bytes[0])), then))
        }
        132 => Some((
            "SCTP",
            12,
            format!("{} → {}", word(0)?, word(2)?),
            Next::End,
        )),
        _ => None,
    }
}

fn tcp(bytes: &[u8]) -> Option<Step> {
    let header = TcpHeaderSlice::from_slice(bytes).ok()?;
    let flags: Vec<&str> = [
        (header.syn(), "SYN"),
        (header.fin(), "FIN"),
        (header.rst(), "RST"),
        (header.psh(), "PSH"),
        (header.ack(), "ACK"),
        (header.urg(), "URG"),
        (header.ece(), "ECE"),
        (header.cwr(), "CWR"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect();
    let mut says = format!(
        "{} → {}, {}, seq {}, ack {}, window {}",
        header.source_port(),
        header.destination_port(),
        flags.join(" "),
        header.sequence_number(),
        header.acknowledgment_number(),
        header.window_size()
    );
    for option in header.options_iterator() {
        match option {
            Ok(TcpOptionElement::MaximumSegmentSize(size)) => says += &format!(", MSS {size}"),
            Ok(TcpOptionElement::WindowScale(scale)) => says += &format!(", window scale {scale}"),
            Ok(TcpOptionElement::SelectiveAcknowledgementPermitted) => says += ", SACK permitted",
            Ok(TcpOptionElement::SelectiveAcknowledgement((from, to), more)) => {
                says += &format!(", SACK {from}-{to}");
                for (from, to) in more.into_iter().flatten() {
                    says += &format!(" {from}-{to}");
                }
            }
            Ok(TcpOptionElement::Timestamp(ours, theirs)) => {
                says += &format!(", timestamps {ours} {theirs}");
            }
            Ok(TcpOptionElement::Noop) => {}
            Err(_) => {
                says += ", an option that is not known";
                break;
            }
        }
    }
    Some(("TCP", header.slice().len(), says, Next::End))
}

fn mac(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn ether_type(kind: u16) -> String {
    match EtherType(kind).name() {
        Some(name) if kind >= 0x600 => name.to_owned(),
        _ => EtherType(kind).to_string(),
    }
}

fn ip_number(number: IpNumber) -> String {
    match number.keyword_str() {
        Some(name) => name.to_owned(),
        None => format!("protocol {}", number.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QueueName, SkbsReport};

    const SAMPLE: &str = include_str!("../tests/samples/skbs-headers.txt");

    fn decoded(fd: u32, queue: &QueueName, pos: usize) -> Decoded {
        let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
        let queue = report.socket(fd).unwrap().queue(queue).unwrap();
        Decoded::of(&queue.skbs[pos])
    }

    fn places(decoded: &Decoded) -> Vec<(&'static str, u64, u64)> {
        let place = |layer: &Layer| (layer.name, layer.offset, layer.len);
        decoded.layers.iter().map(place).collect()
    }

    #[test]
    fn a_packet_in_a_tunnel() {
        let decoded = decoded(3, &QueueName::Receive, 0);
        let want = [
            ("Ethernet", 64, 14),
            ("IPv4", 78, 20),
            ("UDP", 98, 8),
            ("VXLAN", 106, 8),
            ("Ethernet", 114, 14),
            ("IPv4", 128, 20),
            ("UDP", 148, 8),
        ];
        assert_eq!(places(&decoded), want);
        assert_eq!(decoded.layers[3].says, "network 42");
        assert_eq!(decoded.layers[6].says, "6000 → 9, 28 bytes");
        let says = "transport is 78: the IPv4 header begins there: nobody has looked for what is behind it";
        assert_eq!(decoded.disagreements, [says]);
    }

    #[test]
    fn what_does_not_agree_is_said() {
        let decoded = decoded(3, &QueueName::Receive, 1);
        let want = [("Ethernet", 64, 14), ("IPv4", 78, 20), ("TCP", 98, 32)];
        assert_eq!(places(&decoded), want);
        let says = "4000 → 7000, SYN, seq 268435455, ack 0, window 60000, MSS 1400, window scale 7, SACK permitted";
        assert_eq!(decoded.layers[2].says, says);
        assert_eq!(
            decoded.disagreements,
            [
                "the Ethernet header has EtherType 0x86dd, `protocol` is 0x0800",
                "transport is 100: the TCP header is at 98 to 130, and none begins there",
                "inner_network is 65000, outside of the buffer, which ends at 192",
                "the IPv4 header says 1052 bytes, the sk_buff has 152 from there on",
            ]
        );
    }

    #[test]
    fn extension_headers() {
        let decoded = decoded(4, &QueueName::Error, 0);
        let want = [
            ("IPv6", 80, 40),
            ("hop-by-hop options", 120, 8),
            ("destination options", 128, 16),
            ("UDP", 144, 8),
        ];
        assert_eq!(places(&decoded), want);
        assert!(decoded.disagreements.is_empty(), "{decoded:?}");
    }

    #[test]
    fn transport_behind_the_last_header() {
        let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
        let queue = report.socket(4).unwrap().queue(&QueueName::Error).unwrap();
        let mut skb = queue.skbs[0].clone();
        skb.transport.raw = 170;
        let says = "transport is 170: the UDP header is at 144 to 152, and none begins there";
        assert_eq!(Decoded::of(&skb).disagreements, [says]);
    }

    #[test]
    fn no_bytes_are_taken_for_more_than_they_are() {
        let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
        for skb in report
            .sockets
            .iter()
            .flat_map(|of| &of.queues)
            .flat_map(|q| &q.skbs)
        {
            for len in 0..skb.headers[0].bytes.0.len() {
                let mut cut = skb.clone();
                cut.headers[0].bytes.0.truncate(len);
                let decoded = Decoded::of(&cut);
                let end = cut.headers[0].offset + len as u64;
                let inside = |layer: &Layer| layer.offset + layer.len <= end;
                assert!(
                    decoded.layers.iter().all(inside),
                    "{len} bytes: {decoded:?}"
                );
            }
            for at in 0..skb.headers[0].bytes.0.len() {
                for byte in [0, 0xff, 0x4f, 0x60] {
                    let mut other = skb.clone();
                    other.headers[0].bytes.0[at] = byte;
                    Decoded::of(&other);
                }
            }
        }
    }
}
