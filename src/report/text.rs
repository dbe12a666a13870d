// SPDX-License-Identifier: GPL-2.0

//! Records as lines of text, or in the binary form that programs may ask for; whoever writes them does not know
//! which of the two.

#![deny(unsafe_code)]

use super::{
    binary::{Schemas, Type, MAGIC},
    buffer::Buffer,
    gfp, Fault,
};
use crate::object::{
    process::{Owner, OwnerState, Relation},
    sync::id::Id,
};
use kernel::prelude::*;

/// A form of records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines.
    Text,
    /// What `binary` makes.
    Binary,
}

/// Text that grows; running out of memory is an error, and leaves no half line.
pub(crate) struct Text {
    buffer: Buffer,
    /// Where the current record begins, and its result so far.
    start: usize,
    result: Result,
    /// In the binary form.
    binary: Option<KBox<Schemas>>,
}

/// The hexadecimal digits of a number, all at once: a nibble for each byte of a word.
#[inline]
fn eight_digits(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut word = u64::from(number);
    word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 6 more carries into the next nibble where it is a letter.
    let letters = (word + 6 * ONES) >> 4 & ONES;
    const TO_LETTER: u64 = (b'a' - b'9' - 1) as u64;
    (word + u64::from(b'0') * ONES + letters * TO_LETTER).to_be_bytes()
}

/// The digits of a number.
struct Digits {
    digits: [u8; 20],
    first: usize,
}

impl Digits {
    #[inline(always)]
    fn of(mut number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        // As many as the largest number has, so there is always one.
        while let Some(digit) = first.checked_sub(1).and_then(|at| digits.get_mut(at)) {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            first -= 1;
            if number == 0 {
                break;
            }
        }
        Self { digits, first }
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.digits[self.first..]
    }
}

impl Default for Text {
    fn default() -> Self {
        Self {
            buffer: Buffer::default(),
            start: 0,
            result: Ok(()),
            binary: None,
        }
    }
}

impl Text {
    /// In a form.
    pub(crate) fn new(form: Form) -> Result<Self> {
        let mut text = Self::default();
        text.restart(form)?;
        Ok(text)
    }

    /// Restarts in a form: no shape was emitted yet. The capacity is kept.
    pub(crate) fn restart(&mut self, form: Form) -> Result {
        self.buffer.truncate(0);
        match (form, &mut self.binary) {
            (Form::Text, binary) => {
                *binary = None;
                return Ok(());
            }
            (Form::Binary, Some(schemas)) => schemas.restart(),
            (Form::Binary, binary) => *binary = Some(KBox::new(Schemas::default(), gfp())?),
        }
        self.buffer.push(MAGIC)
    }

    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Returns how many bytes of memory it has.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Frees its memory, with what was written.
    pub(crate) fn free(&mut self) {
        self.buffer.free();
    }

    /// Makes room in one step, where it would grow in many. Where that fails, less may do.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.buffer.reserve(bytes);
    }

    /// Drops the text, which the reader has, and keeps the capacity. Shapes emitted in it stay known.
    pub(crate) fn clear(&mut self) {
        self.buffer.truncate(0);
        if let Some(schemas) = &mut self.binary {
            schemas.settle();
        }
    }

    /// Forgets what was written after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len);
        if let Some(schemas) = &mut self.binary {
            schemas.forget(len);
        }
    }

    /// Begins a record.
    pub(crate) fn record(&mut self, kind: &'static str) -> Line<'_> {
        self.start = self.buffer.len();
        self.result = match &mut self.binary {
            Some(schemas) => schemas.begin(kind, &mut self.buffer),
            None => self.buffer.push(kind.as_bytes()),
        };
        Line(self)
    }

    /// Writes a field of the binary form. What went wrong before is none of its business: nothing of the record stays
    /// then.
    #[inline(always)]
    fn in_binary(
        &mut self,
        key: &'static str,
        kind: Type,
        write: impl FnOnce(&mut Buffer) -> Result,
    ) {
        if let Some(schemas) = &mut self.binary {
            let written = match schemas.field(key, kind) {
                Ok(()) => write(&mut self.buffer),
                err => err,
            };
            if written.is_err() {
                self.result = written;
            }
        }
    }

    /// Writes an `error` record. `pid` is 0 where none was named.
    pub(crate) fn fault(&mut self, report: &[u8], pid: i32, fault: Fault) -> Result {
        self.record("error")
            .word("report", report)
            .signed("pid", pid.into())
            .word("errno", name(fault.errno))
            .string("message", fault.message.as_bytes())
            .end()
    }
}

/// A record being written. [`Line::end`] ends it.
///
/// It is no more than a pointer, so that it is handed from field to field in a register.
pub(crate) struct Line<'t>(&'t mut Text);

impl Line<'_> {
    /// Keeps what went wrong. After that, what is written does not matter.
    #[inline(always)]
    fn note(&mut self, result: Result) {
        if result.is_err() {
            self.0.result = result;
        }
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        let result = self.0.buffer.push(bytes);
        self.note(result);
    }

    /// Begins a field as text.
    #[inline(always)]
    fn key(&mut self, key: &str) {
        let result = self.0.buffer.push_key(key.as_bytes());
        self.note(result);
    }

    /// Writes a word that is made of pieces.
    fn pieces(mut self, key: &'static str, write: impl FnOnce(&mut Self)) -> Self {
        if self.0.binary.is_none() {
            self.key(key);
            write(&mut self);
            return self;
        }
        // Its length comes when it is known.
        let at = self.0.buffer.len();
        self.0
            .in_binary(key, Type::Word, |buffer| buffer.push_array(&[0; 2]));
        write(&mut self);
        if self.0.result.is_ok() {
            self.0.result = self.0.buffer.size(at);
        }
        self
    }

    /// Writes a value of the binary form that has so many bytes.
    #[inline(never)]
    fn binary_value<const N: usize>(self, key: &'static str, kind: Type, value: [u8; N]) -> Self {
        self.0
            .in_binary(key, kind, |buffer| buffer.push_array(&value));
        self
    }

    /// Writes a value of the binary form that has any number of bytes.
    #[inline(never)]
    fn binary_bytes(self, key: &'static str, kind: Type, value: &[u8]) -> Self {
        self.0
            .in_binary(key, kind, |buffer| buffer.push_sized(value));
        self
    }

    /// Writes a field as text, if there is room. False: nothing was written.
    #[inline(always)]
    fn field(&mut self, key: &str, value: &[u8]) -> bool {
        self.0.buffer.push_field(key.as_bytes(), value)
    }

    #[inline]
    fn decimal(&mut self, number: u64) {
        let digits = Digits::of(number);
        self.push(digits.bytes());
    }

    /// At least that many digits.
    fn hexadecimal(&mut self, number: u64, least: u32) {
        let needed = (u64::BITS - number.leading_zeros()).div_ceil(4);
        let count = needed.max(least) as usize;
        let mut digits = [0; 16];
        digits[..8].copy_from_slice(&eight_digits((number >> 32) as u32));
        digits[8..].copy_from_slice(&eight_digits(number as u32));
        self.push(&digits[16 - count..]);
    }

    /// A number that is not negative.
    pub(crate) fn number(mut self, key: &'static str, number: u64) -> Self {
        if self.0.binary.is_some() {
            return self.binary_value(key, Type::Number, number.to_le_bytes());
        }
        // Most are that small.
        if number < 10 && self.field(key, &[b'0' + number as u8]) {
            return self;
        }
        self.long_number(key, number)
    }

    #[inline(never)]
    fn long_number(mut self, key: &'static str, number: u64) -> Self {
        if !self.field(key, Digits::of(number).bytes()) {
            self.key(key);
            self.decimal(number);
        }
        self
    }

    /// A number that may be negative.
    pub(crate) fn signed(mut self, key: &'static str, number: i64) -> Self {
        if self.0.binary.is_some() {
            return self.binary_value(key, Type::Signed, number.to_le_bytes());
        }
        self.key(key);
        if number < 0 {
            self.push(b"-");
        }
        self.decimal(number.unsigned_abs());
        self
    }

    /// An address or a page offset.
    pub(crate) fn hex(mut self, key: &'static str, number: usize) -> Self {
        if self.0.binary.is_some() {
            return self.binary_value(key, Type::Hex, (number as u64).to_le_bytes());
        }
        self.key(key);
        self.push(b"0x");
        self.hexadecimal(number as u64, 1);
        self
    }

    /// An EtherType.
    pub(crate) fn hex16(mut self, key: &'static str, number: u16) -> Self {
        if self.0.binary.is_some() {
            return self.binary_value(key, Type::Ether, number.to_le_bytes());
        }
        self.key(key);
        self.push(b"0x");
        self.hexadecimal(number.into(), 4);
        self
    }

    /// An object's id.
    pub(crate) fn id(mut self, key: &'static str, id: Id) -> Self {
        if self.0.binary.is_some() {
            return self.binary_value(key, Type::Id, id.get().to_le_bytes());
        }
        self.key(key);
        self.hexadecimal(id.get(), 16);
        self
    }

    /// Yes or no.
    pub(crate) fn flag(mut self, key: &'static str, flag: bool) -> Self {
        if self.0.binary.is_some() {
            return self.binary_value(key, Type::Flag, [flag.into()]);
        }
        if self.field(key, &[b'0' + u8::from(flag)]) {
            return self;
        }
        self.long_flag(key, flag)
    }

    #[inline(never)]
    fn long_flag(mut self, key: &'static str, flag: bool) -> Self {
        self.key(key);
        self.push(&[b'0' + u8::from(flag)]);
        self
    }

    /// A word, which needs no quotes.
    pub(crate) fn word(mut self, key: &'static str, word: &[u8]) -> Self {
        if self.0.binary.is_some() {
            return self.binary_bytes(key, Type::Word, word);
        }
        if self.field(key, word) {
            return self;
        }
        self.long_word(key, word)
    }

    #[inline(never)]
    fn long_word(mut self, key: &'static str, word: &[u8]) -> Self {
        self.key(key);
        self.push(word);
        self
    }

    /// A word made of words, with commas between; `none` if there are none.
    pub(crate) fn words<'w>(
        self,
        key: &'static str,
        words: impl Iterator<Item = &'w [u8]>,
    ) -> Self {
        self.pieces(key, |line| {
            let mut any = false;
            for word in words {
                if any {
                    line.push(b",");
                }
                line.push(word);
                any = true;
            }
            if !any {
                line.push(b"none");
            }
        })
    }

    /// A word made of a name and a number, for what has no name.
    pub(crate) fn numbered(self, key: &'static str, name: &str, number: u64) -> Self {
        self.pieces(key, |line| {
            line.push(name.as_bytes());
            line.decimal(number);
        })
    }

    /// A header offset of an sk_buff, and whether it is set.
    pub(crate) fn offset(mut self, key: &'static str, raw: u16, set: bool) -> Self {
        if self.0.binary.is_some() {
            let [low, high] = raw.to_le_bytes();
            return self.binary_value(key, Type::Offset, [low, high, set.into()]);
        }
        self.key(key);
        self.decimal(raw.into());
        self.push(if set { b":set" } else { b":unset" });
        self
    }

    /// Bytes in quotes that are known to need no escapes.
    pub(crate) fn plain_string(mut self, key: &'static str, bytes: &[u8]) -> Self {
        if self.0.binary.is_some() {
            return self.binary_bytes(key, Type::String, bytes);
        }
        self.key(key);
        self.push(b"\"");
        self.push(bytes);
        self.push(b"\"");
        self
    }

    /// Bytes in quotes.
    pub(crate) fn string(mut self, key: &'static str, bytes: &[u8]) -> Self {
        if self.0.binary.is_some() {
            return self.binary_bytes(key, Type::String, bytes);
        }
        self.key(key);
        self.push(b"\"");
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&b| !is_plain(b)) {
            self.push(&rest[..at]);
            match rest[at] {
                b'"' => self.push(b"\\\""),
                b'\\' => self.push(b"\\\\"),
                byte => {
                    self.push(b"\\x");
                    self.hexadecimal(byte.into(), 2);
                }
            }
            rest = &rest[at + 1..];
        }
        self.push(rest);
        self.push(b"\"");
        self
    }

    /// Bytes as hexadecimal digits, two for each.
    pub(crate) fn bytes(self, key: &'static str, bytes: &[u8]) -> Self {
        self.pieces(key, |line| {
            for byte in bytes {
                line.hexadecimal((*byte).into(), 2);
            }
        })
    }

    /// Numbers with commas between; `none` if there are none.
    pub(crate) fn numbers(self, key: &'static str, numbers: &[u32]) -> Self {
        self.pieces(key, |line| {
            if numbers.is_empty() {
                line.push(b"none");
            }
            for (at, number) in numbers.iter().enumerate() {
                if at > 0 {
                    line.push(b",");
                }
                line.decimal((*number).into());
            }
        })
    }

    /// Ends the record. If memory ran out, none of it stays.
    pub(crate) fn end(mut self) -> Result {
        let start = self.0.start;
        match &mut self.0.binary {
            None => self.push(b"\n"),
            Some(schemas) if self.0.result.is_ok() => {
                self.0.result = schemas.end(start, &mut self.0.buffer);
            }
            Some(_) => {}
        }
        let result = self.0.result;
        if result.is_err() {
            self.0.truncate(start);
        }
        result
    }
}

/// The name of an errno that ravel answers with. The kernel has names only with CONFIG_SYMBOLIC_ERRNAME.
fn name(errno: Error) -> &'static [u8] {
    match errno {
        _ if errno == EINVAL => b"EINVAL",
        _ if errno == ESRCH => b"ESRCH",
        _ if errno == ENODATA => b"ENODATA",
        _ if errno == ENOMEM => b"ENOMEM",
        _ if errno == EINTR => b"EINTR",
        _ if errno == EBADF => b"EBADF",
        _ if errno == EFAULT => b"EFAULT",
        _ => b"EIO",
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

impl Owner {
    /// Adds who it is that has the address space `mm`.
    pub(super) fn write<'t>(&self, line: Line<'t>, mm: Id) -> Line<'t> {
        line.signed("pid", self.pid.into())
            .string("comm", self.comm.bytes())
            .word(
                "state",
                match self.state {
                    OwnerState::Live => b"live",
                    OwnerState::Forking => b"forking",
                    OwnerState::Exiting => b"exiting",
                },
            )
            .id("mm", mm)
            .word(
                "relation",
                match self.relation {
                    Relation::Itself => b"self",
                    Relation::Ancestor => b"ancestor",
                    Relation::Descendant => b"descendant",
                    Relation::Other => b"other",
                    Relation::Unknown => b"unknown",
                },
            )
    }
}
