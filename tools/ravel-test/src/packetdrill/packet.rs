// SPDX-License-Identifier: GPL-2.0
//! Packets, as a script has them and on the wire.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

/// FIN, SYN, RST, PSH, ACK, as they stand in the header.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

const LETTERS: [(char, u8); 5] = [('F', FIN), ('S', SYN), ('R', RST), ('P', PSH), ('.', ACK)];

/// An option of TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TcpOption {
    Nop,
    Mss(u16),
    WindowScale(u8),
    SackOk,
    Timestamps { value: u32, echo: u32 },
    FastOpen(Vec<u8>),
}

impl TcpOption {
    /// As it stands in a script: `mss 1460`.
    fn parse(text: &str, defined: &BTreeMap<String, String>) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words[..] {
            ["nop"] => Self::Nop,
            ["mss", number] => Self::Mss(number.parse()?),
            ["wscale", number] => Self::WindowScale(number.parse()?),
            ["sackOK"] => Self::SackOk,
            ["TS", "val", value, "ecr", echo] => Self::Timestamps {
                value: value.parse()?,
                echo: echo.parse()?,
            },
            ["FO", cookie] => {
                let digits = defined.get(cookie).map_or(cookie, String::as_str);
                ensure!(digits.len() % 2 == 0, "half a byte in {digits}");
                let bytes = (0..digits.len()).step_by(2);
                let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16);
                Self::FastOpen(bytes.map(byte).collect::<Result<_, _>>()?)
            }
            _ => bail!("an unknown option: {text:?}"),
        })
    }

    fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Nop => to.push(1),
            Self::Mss(mss) => {
                to.extend([2, 4]);
                to.extend(mss.to_be_bytes());
            }
            Self::WindowScale(shift) => to.extend([3, 3, *shift]),
            Self::SackOk => to.extend([4, 2]),
            Self::Timestamps { value, echo } => {
                to.extend([8, 10]);
                to.extend(value.to_be_bytes());
                to.extend(echo.to_be_bytes());
            }
            Self::FastOpen(cookie) => {
                to.extend([34, 2 + cookie.len() as u8]);
                to.extend(cookie);
            }
        }
    }

    fn decode_all(mut bytes: &[u8]) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        while let Some(kind) = bytes.first() {
            let len = match kind {
                0 => break,
                1 => 1,
                _ => usize::from(*bytes.get(1).context("an option without a length")?),
            };
            let body = bytes.get(2.min(len)..len).context("half an option")?;
            let word = |at: usize| -> Result<u32> {
                let bytes = body.get(at..at + 4).context("half a number")?;
                Ok(u32::from_be_bytes(bytes.try_into()?))
            };
            all.push(match (*kind, body) {
                (1, _) => Self::Nop,
                (2, [high, low]) => Self::Mss(u16::from_be_bytes([*high, *low])),
                (3, [shift]) => Self::WindowScale(*shift),
                (4, []) => Self::SackOk,
                (8, [_, _, _, _, _, _, _, _]) => Self::Timestamps {
                    value: word(0)?,
                    echo: word(4)?,
                },
                (34, cookie) => Self::FastOpen(cookie.to_vec()),
                _ => bail!("an unknown option on the wire: {kind}, {body:?}"),
            });
            bytes = &bytes[len..];
        }
        Ok(all)
    }
}

/// A packet. In a script, numbers are counted from where each side begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub flags: u8,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    /// None in a script: whatever it is.
    pub window: Option<u16>,
    /// Likewise.
    pub options: Option<Vec<TcpOption>>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, bit) in LETTERS {
            if self.flags & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        let end = self.seq.wrapping_add(self.len);
        write!(f, " {}:{end}({})", self.seq, self.len)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        if let Some(window) = self.window {
            write!(f, " win {window}")?;
        }
        write!(f, " {:?}", self.options)
    }
}

impl Packet {
    /// As it stands in a script behind `<` or `>`: `S. 0:0(0) ack 1 win 100 <mss 1460>`.
    pub fn parse(text: &str, defined: &BTreeMap<String, String>) -> Result<Self> {
        let (text, options) = match text.split_once('<') {
            None => (text, Some(Vec::new())),
            Some((text, rest)) => {
                let list = rest.trim_end().strip_suffix('>').context("no >")?;
                let options = match list.trim() {
                    "..." => None,
                    list => Some(
                        list.split(',')
                            .map(|option| TcpOption::parse(option, defined))
                            .collect::<Result<_>>()?,
                    ),
                };
                (text, options)
            }
        };
        let mut words = text.split_whitespace();
        let mut flags = 0;
        for letter in words.next().context("no flags")?.chars() {
            let known = LETTERS.iter().find(|(known, _)| *known == letter);
            flags |= known
                .with_context(|| format!("an unknown flag: {letter}"))?
                .1;
        }
        let range = words.next().and_then(|range| {
            let (start, rest) = range.split_once(':')?;
            let (end, len) = rest.strip_suffix(')')?.split_once('(')?;
            Some((start.parse().ok()?, end.parse().ok()?, len.parse().ok()?))
        });
        let (seq, end, len): (u32, u32, u32) = range.context("no START:END(LENGTH)")?;
        ensure!(
            seq.wrapping_add(len) == end,
            "{seq} and {len} are not {end}"
        );
        let (mut ack, mut window) = (None, None);
        while let Some(word) = words.next() {
            let number = words
                .next()
                .with_context(|| format!("nothing behind {word}"))?;
            match word {
                "ack" => ack = Some(number.parse()?),
                "win" => window = Some(number.parse()?),
                _ => bail!("an unknown word: {word}"),
            }
        }
        ensure!(flags & ACK != 0 || ack.is_none(), "`ack N` without `.`");
        // As packetdrill has it, where it is left out.
        if flags & ACK != 0 {
            ack.get_or_insert(0);
        }
        Ok(Self {
            flags,
            seq,
            len,
            ack,
            window,
            options,
        })
    }
}

/// Both addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub from: Address,
    pub to: Address,
    pub from_port: u16,
    pub to_port: u16,
}

/// An address of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

/// A packet as it goes over the wire. Its payload is zeros.
pub fn encode(packet: &Packet, ends: &Ends) -> Result<Vec<u8>> {
    let window = packet.window.context("no window to send")?;
    let mut header = TcpHeader::new(ends.from_port, ends.to_port, packet.seq, window);
    let has = |bit: u8| packet.flags & bit != 0;
    (header.fin, header.syn, header.rst) = (has(FIN), has(SYN), has(RST));
    (header.psh, header.ack) = (has(PSH), has(ACK));
    header.acknowledgment_number = packet.ack.unwrap_or(0);
    let mut options = Vec::new();
    for option in packet.options.as_ref().context("no options to send")? {
        option.encode(&mut options);
    }
    ensure!(options.len() % 4 == 0, "options of {} bytes", options.len());
    header.set_options_raw(&options)?;
    let payload = vec![0; packet.len as usize];
    let mut bytes = Vec::new();
    match (ends.from, ends.to) {
        (Address::V4(from), Address::V4(to)) => PacketBuilder::ipv4(from, to, 255)
            .tcp_header(header)
            .write_to_vec(&mut bytes, &payload)?,
        (Address::V6(from), Address::V6(to)) => PacketBuilder::ipv6(from, to, 255)
            .tcp_header(header)
            .write_to_vec(&mut bytes, &payload)?,
        _ => bail!("addresses of two versions"),
    }
    Ok(bytes)
}

/// A packet of the wire; none if it is not TCP's.
pub fn decode(bytes: &[u8]) -> Result<Option<(Ends, Packet)>> {
    let packet = SlicedPacket::from_ip(bytes)?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        return Ok(None);
    };
    let (from, to, sum) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            let sum = tcp.calc_checksum_ipv4(from, to)?;
            (Address::V4(from), Address::V4(to), sum)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            let sum = tcp.calc_checksum_ipv6(from, to)?;
            (Address::V6(from), Address::V6(to), sum)
        }
        _ => bail!("TCP over something that is not IP"),
    };
    ensure!(sum == tcp.checksum(), "a wrong checksum");
    let bits = [
        (tcp.fin(), FIN),
        (tcp.syn(), SYN),
        (tcp.rst(), RST),
        (tcp.psh(), PSH),
        (tcp.ack(), ACK),
    ];
    ensure!(
        !(tcp.urg() || tcp.ece() || tcp.cwr() || tcp.ns()),
        "a flag that no script has"
    );
    let flags = bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit);
    let packet = Packet {
        flags: flags.sum(),
        seq: tcp.sequence_number(),
        len: tcp.payload().len() as u32,
        ack: tcp.ack().then(|| tcp.acknowledgment_number()),
        window: Some(tcp.window_size()),
        options: Some(TcpOption::decode_all(tcp.options())?),
    };
    let ends = Ends {
        from,
        to,
        from_port: tcp.source_port(),
        to_port: tcp.destination_port(),
    };
    Ok(Some((ends, packet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let defined = BTreeMap::from([("COOKIE".to_owned(), "a1b2".to_owned())]);
        let text =
            "SP. 3:13(10) ack 7 win 100 <mss 1460,sackOK,TS val 1 ecr 2,FO COOKIE,nop,wscale 8>";
        let packet = Packet::parse(text, &defined).unwrap();
        assert_eq!(packet.flags, SYN | PSH | ACK);
        for (from, to) in [
            (Address::V4([1; 4]), Address::V4([2; 4])),
            (Address::V6([1; 16]), Address::V6([2; 16])),
        ] {
            let ends = Ends {
                from,
                to,
                from_port: 1,
                to_port: 2,
            };
            let bytes = encode(&packet, &ends).unwrap();
            assert_eq!(decode(&bytes).unwrap(), Some((ends, packet.clone())));
        }
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for text in [
            "",
            "X 0:0(0)",
            "S 0:1(0)",
            "S 0:0(0) ack 1",
            "S 0:0(0) win x",
            "S 0:0(0) urg 1",
            "S 0:0(0) <mss 1",
            "S 0:0(0) <sack 1:2>",
        ] {
            assert!(Packet::parse(text, &BTreeMap::new()).is_err(), "{text}");
        }
    }
}
