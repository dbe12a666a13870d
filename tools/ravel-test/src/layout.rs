// SPDX-License-Identifier: GPL-2.0
//! The binary form of records, read by the description of their layout in FORMAT.md, and written as
//! text.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use anyhow::{Context, Result, bail, ensure};
use ravel_records::records::{ALL, FieldInfo, Name, Type, prefix};

/// A record: its kind, its text, and its bytes with its header.
pub struct Record {
    pub kind: &'static str,
    pub text: String,
    pub len: usize,
}

/// The records of an answer.
pub fn records(answer: &[u8]) -> Result<Vec<Record>> {
    let mut rest = answer.strip_prefix(&prefix()).context("no prefix")?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        ensure!((answer.len() - rest.len()) % 8 == 0, "not aligned");
        let kind = u16::from_le_bytes(bytes(rest, 0)?);
        let size = usize::from(u16::from_le_bytes(bytes(rest, 2)?));
        let len = u32::from_le_bytes(bytes(rest, 4)?) as usize;
        let (record, others) = rest.split_at_checked(len).context("it is cut")?;
        rest = others;
        let info = ALL.iter().copied().flatten().find(|info| info.kind == kind);
        let info = info.with_context(|| format!("no record has the number {kind}"))?;
        ensure!(size == info.size, "{size} bytes of {}", info.name);
        let (fields, tail) = record[8..].split_at(size);
        let mut text = info.name.to_owned();
        for field in info.fields {
            write_field(field, 0, fields, tail, &mut text)
                .with_context(|| format!("{} {}", info.name, field.key))?;
        }
        all.push(Record {
            kind: info.name,
            text,
            len,
        });
    }
    Ok(all)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = from.get(at..at + N).context("it is cut")?;
    Ok(bytes.try_into()?)
}

fn write_field(
    field: &FieldInfo,
    base: usize,
    fields: &[u8],
    tail: &[u8],
    text: &mut String,
) -> Result<()> {
    let mut at = base + field.offset;
    if field.optional {
        let there = u64::from_le_bytes(bytes(fields, at)?);
        ensure!(there <= 1, "there: {there}");
        if there == 0 {
            return Ok(());
        }
        at += 8;
    }
    if let Type::Part(parts) = field.type_ {
        for part in parts {
            write_field(part, at, fields, tail, text)?;
        }
        return Ok(());
    }
    let value = value(field.type_, at, fields, tail)?;
    write!(text, " {}={value}", field.key)?;
    Ok(())
}

fn value(type_: Type, at: usize, fields: &[u8], tail: &[u8]) -> Result<String> {
    let number = u64::from_le_bytes(bytes(fields, at)?);
    let place = |number: u64| {
        let (at, len) = (number as u32 as usize, (number >> 32) as usize);
        tail.get(at..at + len).context("a string that is not there")
    };
    let name = |names: &[Name], value: u64| {
        let found = names.iter().find(|name| name.value == value);
        found.map(|name| name.name.to_owned())
    };
    Ok(match type_ {
        Type::Number => number.to_string(),
        Type::Signed => (number as i64).to_string(),
        Type::Hex => format!("{number:#x}"),
        Type::EtherType => format!("{number:#06x}"),
        Type::Id => format!("{number:016x}"),
        Type::Flag if number <= 1 => number.to_string(),
        Type::Flag => bail!("a flag that is {number}"),
        Type::OrOff if number == u64::MAX => "off".to_owned(),
        Type::OrOff => number.to_string(),
        Type::Offset => {
            let mark = ["unset", "set"][(number >> 16) as usize];
            format!("{}:{mark}", number & 0xffff)
        }
        Type::Enumeration(names, prefix) => {
            let other = || format!("{prefix}{}", number as u32);
            name(names, number).unwrap_or_else(other)
        }
        Type::Bits(names) => {
            let bits = (0..64)
                .map(|bit| number & (1 << bit))
                .filter(|bit| *bit != 0);
            let words: Option<Vec<String>> = bits.map(|bit| name(names, bit)).collect();
            match words.context("a bit without a name")? {
                none if none.is_empty() => "none".to_owned(),
                words => words.join(","),
            }
        }
        Type::Short => {
            let word: [u8; 8] = bytes(fields, at)?;
            let word = word.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8(word.to_vec())?
        }
        Type::Comm => {
            let name: [u8; 16] = bytes(fields, at)?;
            quote(name.split(|byte| *byte == 0).next().unwrap_or_default())
        }
        Type::String => quote(place(number)?),
        Type::Word => String::from_utf8(place(number)?.to_vec())?,
        Type::Reason => match number >> 32 {
            0 => "none".to_owned(),
            0xffff_ffff => format!("reason_{}", number as u32),
            _ => String::from_utf8(place(number)?.to_vec())?,
        },
        Type::Bytes => {
            let digits = place(number)?.iter().map(|byte| format!("{byte:02x}"));
            digits.collect()
        }
        Type::Numbers => {
            let words: Result<Vec<String>> = (0..number as usize)
                .map(|nth| Ok(u32::from_le_bytes(bytes(fields, at + 8 + 4 * nth)?).to_string()))
                .collect();
            match words? {
                none if none.is_empty() => "none".to_owned(),
                words => words.join(","),
            }
        }
        Type::Address => {
            let port = (number >> 32) as u32;
            let four: [u8; 4] = bytes(fields, at + 8)?;
            let six: [u8; 16] = bytes(fields, at + 8)?;
            let (four, six) = (Ipv4Addr::from(four), Ipv6Addr::from(six));
            let other = u64::from_le_bytes(bytes(fields, at + 8)?);
            let text = match number as u32 {
                0 => String::new(),
                1 => four.to_string(),
                2 => SocketAddrV4::new(four, u16::try_from(port)?).to_string(),
                3 => six.to_string(),
                4 => SocketAddrV6::new(six, u16::try_from(port)?, 0, 0).to_string(),
                5 => return Ok(quote(place(other)?)),
                6 => port.to_string(),
                7 => format!("{other}:{port}"),
                8 => format!("*:{port}"),
                9 => format!("{port:#06x}:{}", other as u32 as i32),
                form => bail!("an address of form {form}"),
            };
            format!("\"{text}\"")
        }
        Type::Part(_) => bail!("a part within a value"),
    })
}

/// A string as text has it.
fn quote(bytes: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    let inner: String = bytes.iter().map(escape).collect();
    format!("\"{inner}\"")
}
