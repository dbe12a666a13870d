//! TCP headers.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::headers::{long, word};
use super::{Next, Step};

/// The flags by their bits in the header's bytes 12 and 13, in the order in which they are shown.
const FLAGS: [(u16, &str); 9] = [
    (0x002, "SYN"),
    (0x001, "FIN"),
    (0x004, "RST"),
    (0x008, "PSH"),
    (0x010, "ACK"),
    (0x020, "URG"),
    (0x040, "ECE"),
    (0x080, "CWR"),
    (0x100, "AE"),
];

pub(super) fn tcp(bytes: &[u8]) -> Option<Step> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let bits = word(header, 12)?;
    let len = usize::from(bits >> 12) * 4;
    if len < header.len() {
        return None;
    }
    let names: Vec<&str> = FLAGS
        .iter()
        .filter_map(|(bit, name)| (bits & bit != 0).then_some(*name))
        .collect();
    let (from, to) = (word(header, 0)?, word(header, 2)?);
    let (seq, ack, window) = (long(header, 4)?, long(header, 8)?, word(header, 14)?);
    let mut says = format!(
        "{from} → {to}, {}, seq {seq}, ack {ack}, window {window}",
        names.join(" ")
    );
    let options = options(bytes.get(header.len()..len).unwrap_or_default());
    for (_, text) in &options {
        says += ", ";
        says += text;
    }
    let kinds: Vec<String> = options.iter().map(|(kind, _)| kind.to_string()).collect();
    let texts: Vec<&str> = options.iter().map(|(_, text)| text.as_str()).collect();
    Some(Step {
        name: "TCP",
        len,
        says,
        fields: vec![
            ("sport", from.to_string()),
            ("dport", to.to_string()),
            ("seq", seq.to_string()),
            ("ack", ack.to_string()),
            ("flags", format!("{:#05x}", bits & 0x1ff)),
            ("window", window.to_string()),
            ("option_kinds", kinds.join(" ")),
            ("options", texts.join("; ")),
        ],
        next: Next::End,
    })
}

/// Decodes the options, without padding: their kinds, and what they say.
fn options(mut bytes: &[u8]) -> Vec<(u8, String)> {
    const END: u8 = 0;
    const PADDING: u8 = 1;
    let mut all = Vec::new();
    while let Some(kind) = bytes.first() {
        match *kind {
            END => break,
            PADDING => bytes = &bytes[1..],
            kind => {
                let len = usize::from(bytes.get(1).copied().unwrap_or(0));
                let Some(value) = bytes.get(2..len) else {
                    // Without a length, nothing says where the next one begins.
                    all.push((kind, format!("option {kind} with invalid length {len}")));
                    break;
                };
                let known = option(kind, value);
                let text = known.unwrap_or_else(|| format!("option {kind}, {len} bytes"));
                all.push((kind, text));
                bytes = &bytes[len..];
            }
        }
    }
    all
}

/// Decodes an option that the kernel knows (`TCPOPT_*`); none where the length is not its own.
fn option(kind: u8, value: &[u8]) -> Option<String> {
    Some(match (kind, value) {
        (2, [_, _]) => format!("MSS {}", word(value, 0)?),
        (3, [shift]) => format!("window scale {shift}"),
        (4, []) => "SACK permitted".to_owned(),
        (5, value) if !value.is_empty() && value.len() % 8 == 0 => {
            let blocks = value.chunks(8).filter_map(|block| {
                let (from, to) = (long(block, 0)?, long(block, 4)?);
                Some(format!("{from}-{to}"))
            });
            format!("SACK {}", blocks.collect::<Vec<_>>().join(" "))
        }
        (8, value) if value.len() == 8 => {
            format!("timestamps {} {}", long(value, 0)?, long(value, 4)?)
        }
        (19, value) if value.len() == 16 => "MD5 signature".to_owned(),
        (29, [key, next, mac @ ..]) => {
            format!("AO key {key}, next key {next}, MAC of {} bytes", mac.len())
        }
        (30, [first, rest @ ..]) => format!("MPTCP {}", mptcp(*first, rest)),
        (34, []) => "TFO cookie request".to_owned(),
        (34, cookie) => format!("TFO cookie {}", hex(cookie)),
        (172 | 174, counters) if counters.len() % 3 == 0 => accurate_ecn(kind, counters),
        (254, [0xf9, 0x89]) => "TFO cookie request, experimental".to_owned(),
        (254, [0xf9, 0x89, cookie @ ..]) => format!("TFO cookie {}, experimental", hex(cookie)),
        (254, [0xe2, 0xd4, 0xc3, 0xd9, ..]) => "SMC".to_owned(),
        (253 | 254, [_, _, ..]) => {
            format!("option {kind}, experiment {:#06x}", word(value, 0)?)
        }
        _ => return None,
    })
}

/// Counters of bytes: those of ECT(0), CE and ECT(1), or from the last to the first.
fn accurate_ecn(kind: u8, counters: &[u8]) -> String {
    let mut names = ["ECT(0)", "CE", "ECT(1)"];
    if kind == 174 {
        names.reverse();
    }
    let mut text = "AccECN".to_owned();
    for (name, counter) in names.iter().zip(counters.chunks(3)) {
        let value = counter
            .iter()
            .fold(0u32, |sum, byte| (sum << 8) | u32::from(*byte));
        // Writing to a String does not fail.
        let _ = write!(text, " {name} {value}");
    }
    text
}

/// MPTCP's subtypes (`MPTCPOPT_*`). `rest` follows the byte that has the subtype in its upper half.
fn mptcp(first: u8, rest: &[u8]) -> String {
    let subtype = first >> 4;
    let low = first & 0xf;
    let name = match subtype {
        0 => "MP_CAPABLE",
        1 => "MP_JOIN",
        2 => "DSS",
        3 => "ADD_ADDR",
        4 => "REMOVE_ADDR",
        5 => "MP_PRIO",
        6 => "MP_FAIL",
        7 => "MP_FASTCLOSE",
        8 => "MP_TCPRST",
        _ => return format!("subtype {subtype}"),
    };
    let more = match subtype {
        0 => Some(format!("version {low}")),
        // A SYN's, a SYN-ACK's and an ACK's differ in length; only the first two have an address id.
        1 if matches!(rest.len(), 9 | 13) => rest.first().map(|id| {
            let backup = if low & 1 != 0 { ", backup" } else { "" };
            format!("address {id}{backup}")
        }),
        2 => dss(rest),
        3 => add_addr(low, rest),
        4 => {
            let ids: Vec<String> = rest.iter().map(u8::to_string).collect();
            Some(format!("address {}", ids.join(" ")))
        }
        5 => {
            let backup = if low & 1 != 0 { "backup" } else { "no backup" };
            match rest.first() {
                Some(id) => Some(format!("{backup}, address {id}")),
                None => Some(backup.to_owned()),
            }
        }
        6 => quad(rest, 1).map(|seq| format!("data seq {seq}")),
        8 => rest.first().map(|reason| format!("reason {reason}")),
        _ => None,
    };
    match more {
        Some(more) => format!("{name} {more}"),
        None => name.to_owned(),
    }
}

fn dss(rest: &[u8]) -> Option<String> {
    let flags = *rest.first()?;
    let mut at = 1;
    let mut parts = Vec::new();
    let mut number = |wide: bool| {
        let value = match wide {
            true => quad(rest, at)?,
            false => long(rest, at)?.into(),
        };
        at += if wide { 8 } else { 4 };
        Some(value)
    };
    if flags & 0x01 != 0 {
        parts.push(format!("ack {}", number(flags & 0x02 != 0)?));
    }
    if flags & 0x04 != 0 {
        let seq = number(flags & 0x08 != 0)?;
        let (subflow, len) = (long(rest, at)?, word(rest, at + 4)?);
        parts.push(format!("seq {seq}, subflow seq {subflow}, {len} bytes"));
    }
    if flags & 0x10 != 0 {
        parts.push("DATA_FIN".to_owned());
    }
    Some(parts.join(", "))
}

fn add_addr(low: u8, rest: &[u8]) -> Option<String> {
    let (id, rest) = rest.split_first()?;
    let echo = if low & 1 != 0 { ", echo" } else { "" };
    // With a port or without, with an HMAC or without.
    let (address, behind) = match rest.len() {
        4 | 6 | 12 | 14 => {
            let (four, behind) = rest.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*four).to_string(), behind)
        }
        16 | 18 | 24 | 26 => {
            let (six, behind) = rest.split_first_chunk::<16>()?;
            (format!("[{}]", Ipv6Addr::from(*six)), behind)
        }
        _ => return Some(format!("address {id}{echo}")),
    };
    let port = match behind.len() % 8 {
        2 => format!(":{}", word(behind, 0)?),
        _ => String::new(),
    };
    Some(format!("address {id}, {address}{port}{echo}"))
}

fn quad(bytes: &[u8], at: usize) -> Option<u64> {
    Some((u64::from(long(bytes, at)?) << 32) | u64::from(long(bytes, at + 4)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
