//! Makes the binary form of texts, by the descriptions of records alone.

use ravel_records::records::{self, ALL, FieldInfo, Info, Name, Type};
use ravel_records::{Line, Value};

/// The record that a line is.
pub fn info(line: &Line<'_>) -> &'static Info {
    let of_report = |info: &&Info| match line.value("report") {
        Some(Value::Bare(report)) if info.name == "summary" => {
            info.doc.contains(&format!("`{report}`"))
                || info.fields[0].doc.trim() == format!("`{report}`.")
        }
        _ => true,
    };
    let all = ALL.iter().copied().flatten();
    let mut found = all.filter(|info| info.name == line.kind).filter(of_report);
    found
        .next()
        .unwrap_or_else(|| panic!("no record {}", line.kind))
}

/// A line in the binary form.
pub fn encode(text: &str) -> Vec<u8> {
    let line = Line::parse(text.as_bytes(), 1).unwrap();
    let info = info(&line);
    let mut bytes = vec![0; info.size];
    let mut tail = Vec::new();
    for field in info.fields {
        encode_field(&line, field, 0, &mut bytes, &mut tail);
    }
    frame(info.kind, &bytes, &tail)
}

/// A text with the fields that the older modules which wrote it did not know, all of them 0.
pub fn complete(text: &str) -> String {
    fn add(line: &Line<'_>, fields: &[FieldInfo], to: &mut String) {
        for field in fields {
            match field.type_ {
                _ if field.optional && !has(line, field) => {}
                Type::Part(fields) => add(line, fields, to),
                Type::Number if !has(line, field) => *to += &format!(" {}=0", field.key),
                _ => {}
            }
        }
    }
    let lines = text.lines().map(|text| {
        let line = Line::parse(text.as_bytes(), 1).unwrap();
        let mut whole = text.to_owned();
        add(&line, info(&line).fields, &mut whole);
        whole + "\n"
    });
    lines.collect()
}

/// A record of that number.
pub fn frame(kind: u16, fields: &[u8], tail: &[u8]) -> Vec<u8> {
    let len = (8 + fields.len() + tail.len()).next_multiple_of(8);
    let header = records::header(kind, fields.len() as u16, len as u32);
    let mut all = [&header[..], fields, tail].concat();
    all.resize(len, 0);
    all
}

/// A text in the binary form.
pub fn binary(text: &str) -> Vec<u8> {
    let mut all = records::prefix().to_vec();
    all.extend(text.lines().flat_map(encode));
    all
}

fn has(line: &Line<'_>, field: &FieldInfo) -> bool {
    match field.type_ {
        Type::Part(fields) => fields.iter().any(|field| has(line, field)),
        _ => line.value(field.key).is_some(),
    }
}

fn encode_field(
    line: &Line<'_>,
    field: &FieldInfo,
    base: usize,
    to: &mut [u8],
    tail: &mut Vec<u8>,
) {
    let mut at = base + field.offset;
    if field.optional {
        if !has(line, field) {
            return;
        }
        to[at] = 1;
        at += 8;
    }
    if let Type::Part(fields) = field.type_ {
        for field in fields {
            encode_field(line, field, at, to, tail);
        }
        return;
    }
    let value = line.value(field.key);
    let value = value.unwrap_or_else(|| panic!("{} has no {}", line.kind, field.key));
    let place = |tail: &mut Vec<u8>, bytes: &[u8]| {
        let at = tail.len() as u64;
        tail.extend(bytes);
        at | ((bytes.len() as u64) << 32)
    };
    let quoted = || match value {
        Value::Quoted(text) => text.bytes().into_owned(),
        other => panic!("{}: {other}", field.key),
    };
    let bare = || match value {
        Value::Bare(text) => *text,
        other => panic!("{}: {other}", field.key),
    };
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let named = |names: &[Name], word: &str| {
        names
            .iter()
            .find(|name| name.name == word)
            .map(|name| name.value)
    };
    let number = match field.type_ {
        Type::Number => bare().parse().unwrap(),
        Type::Signed => bare().parse::<i64>().unwrap() as u64,
        Type::Hex | Type::EtherType | Type::Id => hex(bare()),
        Type::Flag => bare().parse().unwrap(),
        Type::OrOff => match bare() {
            "off" => u64::MAX,
            text => text.parse().unwrap(),
        },
        Type::Offset => {
            let (raw, mark) = bare().split_once(':').unwrap();
            raw.parse::<u64>().unwrap() | (u64::from(mark == "set") << 16)
        }
        Type::Enumeration(names, prefix) => match named(names, bare()) {
            Some(value) => value,
            // A protocol of another family than inet, where it is a number.
            None if prefix.is_empty() => (1 << 32) | bare().parse::<u64>().unwrap(),
            None => bare().strip_prefix(prefix).unwrap().parse().unwrap(),
        },
        Type::Bits(names) => {
            let set = bare().split(',').filter(|word| *word != "none");
            set.map(|word| named(names, word).unwrap()).sum()
        }
        Type::Short => {
            let mut bytes = [0; 8];
            bytes[..bare().len()].copy_from_slice(bare().as_bytes());
            u64::from_le_bytes(bytes)
        }
        Type::String => place(tail, &quoted()),
        Type::Word => place(tail, bare().as_bytes()),
        Type::Reason => match bare().strip_prefix("reason_") {
            Some(number) => number.parse::<u64>().unwrap() | (u64::from(u32::MAX) << 32),
            None if bare() == "none" => 0,
            None => place(tail, bare().as_bytes()),
        },
        Type::Bytes => {
            let digits = bare().as_bytes().chunks(2);
            let bytes = digits.map(|pair| hex(std::str::from_utf8(pair).unwrap()) as u8);
            place(tail, &bytes.collect::<Vec<_>>())
        }
        Type::Comm => {
            let bytes = quoted();
            to[at..at + bytes.len()].copy_from_slice(&bytes);
            return;
        }
        Type::Numbers => {
            let numbers = bare().split(',').filter(|word| *word != "none");
            let numbers: Vec<u32> = numbers.map(|word| word.parse().unwrap()).collect();
            to[at] = numbers.len() as u8;
            for (place, number) in numbers.iter().enumerate() {
                let at = at + 8 + place * 4;
                to[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            return;
        }
        Type::Address => {
            to[at..at + 24].copy_from_slice(&address(&quoted(), tail));
            return;
        }
        Type::Part(_) => unreachable!(),
    };
    to[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// An address: its form, its port, and its bytes.
fn address(text: &[u8], tail: &mut Vec<u8>) -> Vec<u8> {
    use std::net::{IpAddr, SocketAddr};
    let mut bytes = vec![0; 24];
    let mut put = |form: u32, port: u32, address: &[u8]| {
        bytes[..4].copy_from_slice(&form.to_le_bytes());
        bytes[4..8].copy_from_slice(&port.to_le_bytes());
        bytes[8..8 + address.len()].copy_from_slice(address);
    };
    let text_of = std::str::from_utf8(text).unwrap_or_default();
    if text.is_empty() {
    } else if let Ok(address) = text_of.parse::<SocketAddr>() {
        match address {
            SocketAddr::V4(four) => put(2, four.port().into(), &four.ip().octets()),
            SocketAddr::V6(six) => put(4, six.port().into(), &six.ip().octets()),
        }
    } else if let Ok(address) = text_of.parse::<IpAddr>() {
        match address {
            IpAddr::V4(four) => put(1, 0, &four.octets()),
            IpAddr::V6(six) => put(3, 0, &six.octets()),
        }
    } else if let Ok(port) = text_of.parse::<u32>() {
        put(6, port, &[]);
    } else {
        let place = tail.len() as u64 | ((text.len() as u64) << 32);
        tail.extend(text);
        put(5, 0, &place.to_le_bytes());
    }
    bytes
}
