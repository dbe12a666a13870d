//! The binary form of records, which the module makes for programs: their structures, read in
//! place.

use std::str;

use crate::line::{Quoted, Value};
use crate::records::{
    self, Address, Cast, HEADER, Key, MAGIC, Name, Numbers, Sink, Tail, common, events, memory,
    process, skbs, sockets, waiters,
};
use crate::{Error, Line};

/// Whether an answer is in the binary form, be it that of another version of the module.
pub(crate) fn is_binary(answer: &[u8]) -> bool {
    answer.starts_with(&MAGIC[..7])
}

/// Whether an answer is in a binary form that has other records than those that are known here.
pub(crate) fn is_foreign(answer: &[u8]) -> bool {
    is_binary(answer) && !answer.starts_with(&records::prefix())
}

/// The records one by one.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

/// Takes the first bytes off, whose number is known.
#[inline]
fn take<'a, const N: usize>(from: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(taken)
}

impl<'a> Records<'a> {
    /// Of a whole answer, where it is in this form.
    pub(crate) fn new(answer: &'a [u8]) -> Option<Self> {
        let rest = answer.strip_prefix(&records::prefix())?;
        Some(Self { rest })
    }

    /// Goes on to the next record that is known here, which has that number: whether there is one.
    pub(crate) fn next(&mut self, line: &mut Line<'a>, number: usize) -> Result<bool, Error> {
        while !self.rest.is_empty() {
            let wrong = |reason: &str| Error::Parse {
                line: number,
                reason: reason.to_owned(),
            };
            let cut = || Error::Cut { lines: number - 1 };
            let mut rest = self.rest;
            let header: &[u8; HEADER] = take(&mut rest).ok_or_else(cut)?;
            let [kind, more, low, high, len @ ..] = *header;
            let (kind, size) = (
                u16::from_le_bytes([kind, more]),
                u16::from_le_bytes([low, high]),
            );
            let len = u32::from_le_bytes(len) as usize;
            let len = len.checked_sub(HEADER);
            let len = len.ok_or_else(|| wrong("a record shorter than its header"))?;
            let (record, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
            let fields = record.split_at_checked(size.into());
            let (fields, tail) = fields.ok_or_else(|| wrong("a record shorter than its fields"))?;
            self.rest = rest;
            if read(line, kind, fields, tail, number).map_err(wrong)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads a record of that number: whether it is known here.
fn read<'a>(
    line: &mut Line<'a>,
    kind: u16,
    fields: &'a [u8],
    tail: &'a [u8],
    number: usize,
) -> Result<bool, &'static str> {
    let tail: Tail<'_, 'a> = &[tail];
    let mut values = Values {
        line: line.restart(number),
        is_wrong: false,
    };
    let sink = &mut values;
    // Those that there are most of come first.
    let cast = events::write(kind, fields, tail, sink)
        .or_else(|| memory::write(kind, fields, tail, sink))
        .or_else(|| sockets::write(kind, fields, tail, sink))
        .or_else(|| skbs::write(kind, fields, tail, sink))
        .or_else(|| process::write(kind, fields, tail, sink))
        .or_else(|| waiters::write(kind, fields, tail, sink))
        .or_else(|| common::write(kind, fields, tail, sink));
    let is_wrong = values.is_wrong;
    match cast {
        None => Ok(false),
        Some(Cast::Record(_)) if is_wrong => Err("a record with a value that is none"),
        Some(Cast::Record(name)) => {
            line.kind = name;
            Ok(true)
        }
        Some(Cast::Short) => Err("a record that lacks fields"),
    }
}

/// The values of a record, as they are found in its structure.
struct Values<'l, 'a> {
    line: &'l mut Line<'a>,
    is_wrong: bool,
}

impl<'a> Sink<'a> for Values<'_, 'a> {
    #[inline(always)]
    fn number(&mut self, key: Key, number: u64) {
        self.line.push(key, Value::Number(number));
    }

    #[inline(always)]
    fn signed(&mut self, key: Key, number: i64) {
        self.line.push(key, Value::Signed(number));
    }

    #[inline(always)]
    fn hex(&mut self, key: Key, number: u64) {
        self.line.push(key, Value::Hex(number));
    }

    #[inline(always)]
    fn ether_type(&mut self, key: Key, number: u16) {
        self.line.push(key, Value::EtherType(number));
    }

    #[inline(always)]
    fn id(&mut self, key: Key, id: u64) {
        self.line.push(key, Value::Id(id));
    }

    #[inline(always)]
    fn flag(&mut self, key: Key, flag: bool) {
        self.line.push(key, Value::Flag(flag));
    }

    #[inline(always)]
    fn offset(&mut self, key: Key, raw: u16, set: bool) {
        self.line.push(key, Value::Offset(raw, set));
    }

    #[inline(always)]
    fn word(&mut self, key: Key, word: &'a [u8]) {
        match str::from_utf8(word) {
            Ok(word) => self.line.push(key, Value::Bare(word)),
            Err(_) => self.is_wrong = true,
        }
    }

    fn numbered(&mut self, key: Key, prefix: &'static str, number: u64) {
        let value = match prefix {
            "" => Value::Number(number),
            prefix => Value::Numbered(prefix, number),
        };
        self.line.push(key, value);
    }

    #[inline(always)]
    fn bits(&mut self, key: Key, bits: u64, names: &'static [Name]) {
        self.line.push(key, Value::Names(bits, names));
    }

    #[inline(always)]
    fn string(&mut self, key: Key, bytes: &'a [u8]) {
        self.line.push(key, Value::Quoted(Quoted::plain(bytes)));
    }

    fn bytes(&mut self, key: Key, bytes: &'a [u8]) {
        self.line.push(key, Value::Bytes(bytes));
    }

    fn numbers(&mut self, key: Key, numbers: &'a Numbers) {
        match numbers.get() {
            Some(_) => self.line.push(key, Value::Numbers(numbers)),
            None => self.is_wrong = true,
        }
    }

    #[inline(always)]
    fn address(&mut self, key: Key, address: &'a Address, tail: Tail<'_, 'a>) {
        let value = match address.path_in(tail) {
            Some(Some(path)) => Value::Quoted(Quoted::plain(path)),
            None if address.is_valid() => Value::Address(address),
            _ => {
                self.is_wrong = true;
                return;
            }
        };
        self.line.push(key, value);
    }

    fn wrong(&mut self, _key: Key) {
        self.is_wrong = true;
    }
}
