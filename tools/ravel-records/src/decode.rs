//! Decodes the headers of an sk_buff, and compares them with the sk_buff's offsets.
//!
//! The module reports bytes; this module decodes them. Nothing is guessed: each header's type follows from the header
//! before it, from the sk_buff's fields (`protocol`, `encapsulation`, `inner_protocol`), from the UDP socket that
//! receives the packet (`encap`), or from the device (`dev_type`). Decoding ends before the first header that is
//! truncated, invalid or of unknown type.

mod headers;
mod tcp;
mod tunnels;

pub use headers::vlan_tag;

#[cfg(test)]
mod tests;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{Encap, EtherType, HeaderBytes, Skb};

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Layer {
    /// Its protocol, such as `IPv4`; [`UNKNOWN`] for bytes of unknown meaning.
    pub name: &'static str,
    /// Bytes from the sk_buff's `head`.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// What it says, as text.
    pub says: String,
    /// The same, field by field.
    #[serde(skip_serializing_if = "Fields::is_empty")]
    pub fields: Fields,
}

/// The fields of a header with their values, in the order of the header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(&'static str, String)>);

impl Fields {
    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find_map(|(key, value)| (*key == name).then_some(value.as_str()))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Layer {
    /// Bytes from the sk_buff's `head` to behind it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// The headers of an sk_buff.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Decoded {
    /// In the order of their bytes.
    pub layers: Vec<Layer>,
    /// Where offsets, fields and bytes do not agree: a sentence for each.
    pub disagreements: Vec<String>,
}

/// The name of bytes before a header whose meaning is unknown.
pub const UNKNOWN: &str = "unknown";

/// What follows a header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Ethernet,
    /// By EtherType.
    Network(u16),
    /// By IP protocol; extension headers follow IPv6 only.
    Ip(u8, Version),
    Vxlan,
    Geneve,
    /// Of the given type: 1, 2 or 3.
    Erspan(u8),
    End,
}

/// The version of the IP header before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Four,
    Six,
}

/// A header at the beginning of some bytes.
struct Step {
    name: &'static str,
    len: usize,
    says: String,
    fields: Vec<(&'static str, String)>,
    next: Next,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
/// Ethernet, in GRE and GENEVE.
const BRIDGED: u16 = 0x6558;

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK`: devices whose link layer header is Ethernet's.
const ETHERNETS: [u16; 2] = [1, 772];

impl Skb {
    /// Whether the offsets of inner headers are valid; otherwise they may be stale.
    pub fn is_encapsulated(&self) -> bool {
        self.flags.has("encapsulation")
    }

    /// The header offsets that are valid: those of inner headers only of an encapsulated packet.
    pub fn valid_offsets(&self) -> impl Iterator<Item = (&'static str, crate::Offset)> {
        let encapsulated = self.is_encapsulated();
        let all = self.offsets().into_iter();
        all.filter(move |(name, _)| encapsulated || !name.starts_with("inner"))
    }
}

impl Decoded {
    /// Decodes the headers of an sk_buff.
    pub fn of(skb: &Skb) -> Self {
        let mut decoded = Self::default();
        for (index, header) in skb.headers.iter().enumerate() {
            let begins_outside = index == 0 && u64::from(skb.network.raw) >= header.offset;
            match begins_outside {
                true => decoded.read_outer(skb, header),
                false => decoded.read_inner(skb, header),
            }
        }
        decoded.compare(skb);
        decoded
    }

    /// The header that begins at a place.
    pub fn at(&self, offset: u64) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.offset == offset)
    }

    /// The end of the last header.
    fn end(&self) -> Option<u64> {
        self.layers.last().map(Layer::end)
    }

    /// Whether only payload can follow the last header.
    fn is_complete(&self) -> bool {
        let last = self.layers.last().map(|layer| layer.name);
        matches!(
            last,
            Some("TCP" | "UDP" | "UDP-Lite" | "ICMP" | "ICMPv6" | "SCTP")
        )
    }

    fn read_outer(&mut self, skb: &Skb, header: &HeaderBytes) {
        let link = u64::from(skb.network.raw).saturating_sub(header.offset) as usize;
        let protocol = skb.protocol;
        let is_ethernet = skb.dev_type.is_none_or(|kind| ETHERNETS.contains(&kind));
        let next = match link {
            0 => Next::Network(protocol.0),
            14 if is_ethernet => Next::Ethernet,
            _ => {
                // A decapsulated packet keeps the outer headers there.
                let len = link.min(header.bytes.0.len());
                if len > 0 {
                    let of = match (skb.dev_type, is_ethernet) {
                        (Some(kind), false) => format!(" of a device of type {kind}"),
                        _ => String::new(),
                    };
                    self.push_unknown(
                        header.offset,
                        len as u64,
                        format!("{len} bytes before the network header{of}"),
                    );
                }
                return self.walk(
                    skb,
                    header,
                    link,
                    Next::Network(protocol.0),
                    skb.encap.as_ref(),
                );
            }
        };
        self.walk(skb, header, 0, next, skb.encap.as_ref());
    }

    fn read_inner(&mut self, skb: &Skb, header: &HeaderBytes) {
        if let Some(end) = self.end() {
            let gap = header.offset.saturating_sub(end);
            if gap > 0 {
                self.push_unknown(end, gap, format!("{gap} bytes before the inner headers"));
            }
        }
        let inner = skb.inner_protocol.unwrap_or_default();
        let next = match (inner.0, skb.inner_ipproto) {
            (BRIDGED, _) => Next::Ethernet,
            (0, Some(4)) => Next::Network(IPV4),
            (0, Some(41)) => Next::Network(IPV6),
            (kind, _) => Next::Network(kind),
        };
        // A datagram inside of the tunnel is received elsewhere.
        self.walk(skb, header, 0, next, None);
    }

    /// Decodes from `at` on, until a header is truncated or unknown. `encap`: what the receiver of the outermost
    /// datagram receives.
    fn walk(
        &mut self,
        skb: &Skb,
        header: &HeaderBytes,
        mut at: usize,
        mut next: Next,
        mut encap: Option<&Encap>,
    ) {
        let bytes = &header.bytes.0;
        let network = u64::from(skb.network.raw).saturating_sub(header.offset) as usize;
        while let Some(rest) = bytes.get(at..) {
            let Some(mut step) = headers::step(next, rest) else {
                break;
            };
            if step.len > rest.len() {
                break;
            }
            match encap {
                Some(receiver) if step.name == "UDP" => {
                    encap = None;
                    step.next = match receiver {
                        Encap::Vxlan => Next::Vxlan,
                        Encap::Geneve => Next::Geneve,
                        other => {
                            step.says += &format!(", to a socket of {other}");
                            Next::End
                        }
                    };
                }
                _ => {}
            }
            let is_outer_link = step.name == "Ethernet" && at == 0 && network == step.len;
            self.push(header.offset.saturating_add(at as u64), &step);
            at += step.len;
            next = step.next;
            if is_outer_link && next != Next::Network(skb.protocol.0) {
                let says = match next {
                    Next::Network(kind) => format!("EtherType {}", EtherType(kind)),
                    _ => "a length".to_owned(),
                };
                let protocol = skb.protocol;
                // A VLAN tag that was removed left the type of what is behind it.
                self.disagreements.push(format!(
                    "the Ethernet header has {says}, `protocol` is {protocol}"
                ));
                next = Next::Network(protocol.0);
            }
        }
    }

    fn push(&mut self, offset: u64, step: &Step) {
        self.layers.push(Layer {
            name: step.name,
            offset,
            len: step.len as u64,
            says: step.says.clone(),
            fields: Fields(step.fields.clone()),
        });
    }

    fn push_unknown(&mut self, offset: u64, len: u64, says: String) {
        self.layers.push(Layer {
            name: UNKNOWN,
            offset,
            len,
            says,
            fields: Fields::default(),
        });
    }

    /// Compares the offsets with the places of the decoded headers.
    fn compare(&mut self, skb: &Skb) {
        for (name, offset) in skb.valid_offsets() {
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
            // Behind the last known header may be others, unless only payload can follow it.
            let begun = self.layers.first().is_some_and(|first| first.offset <= at);
            let ended = self.end().is_none_or(|end| at > end);
            let known = begun && (!ended || (name == "transport" && self.is_complete()));
            if known {
                self.compare_one(skb, name, at);
            }
        }
        let total = self.layers.iter().find(|layer| layer.name == "IPv4");
        let says = total.and_then(|layer| layer.fields.get("len")?.parse::<u64>().ok());
        if let (Some(layer), Some(says)) = (total, says) {
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
                Some(network @ ("IPv4" | "IPv6" | "ARP" | "802.1Q" | "802.1ad")),
            ) => {
                format!("the {network} header begins there: no layer has set the transport header")
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
