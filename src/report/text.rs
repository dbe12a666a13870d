// SPDX-License-Identifier: GPL-2.0

//! Records as lines of text, or in the binary form that programs may ask for; whoever writes them does not know
//! which of the two.

#![deny(unsafe_code)]

use super::{
    binary::{Schemas, Type, MAGIC},
    gfp, Fault,
};
use crate::object::{
    id::Id,
    process::{Owner, OwnerState, Relation},
};
use kernel::prelude::*;

/// Text that grows; running out of memory is an error, and leaves no half line.
pub(crate) struct Text {
    whole: KVVec<u8>,
    /// What was last written of a line. Nearly all lines fit: their bytes are looked at twice, but memory once.
    part: [u8; PART],
    filled: usize,
    /// In the binary form.
    binary: Option<KBox<Schemas>>,
}

const PART: usize = 256;

/// Copies a slice of the same length, mostly of a few bytes, for which a call of memcpy() is long.
#[inline(always)]
fn copy_few(to: &mut [u8], from: &[u8]) {
    /// In two pieces, which may overlap.
    #[inline(always)]
    fn pieces<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
            *to = *from;
        }
        if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk()) {
            *to = *from;
        }
    }
    match from.len() {
        0..2 => pieces::<1>(to, from),
        2..4 => pieces::<2>(to, from),
        4..8 => pieces::<4>(to, from),
        8..17 => pieces::<8>(to, from),
        _ => to.copy_from_slice(from),
    }
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

impl Default for Text {
    fn default() -> Self {
        Self {
            whole: KVVec::new(),
            part: [0; PART],
            filled: 0,
            binary: None,
        }
    }
}

impl Text {
    /// In the binary form.
    pub(crate) fn binary() -> Result<Self> {
        let mut text = Self {
            binary: Some(KBox::new(Schemas::default(), gfp())?),
            ..Self::default()
        };
        text.whole.extend_from_slice(MAGIC, gfp())?;
        Ok(text)
    }

    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.whole
    }

    /// Makes room in one step, where it would grow in many. Where that fails, less may do.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        let _ = self.whole.reserve(bytes, gfp());
    }

    /// Forgets what was written, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.whole.clear();
        if let Some(schemas) = &mut self.binary {
            schemas.settle();
        }
    }

    /// Forgets what was written after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.whole.truncate(len);
        if let Some(schemas) = &mut self.binary {
            schemas.forget(len);
        }
    }

    /// Begins a record.
    pub(crate) fn record(&mut self, kind: &'static str) -> Line<'_> {
        self.filled = 0;
        let mut line = Line {
            start: self.whole.len(),
            text: self,
            result: Ok(()),
        };
        match &mut line.text.binary {
            Some(schemas) => line.result = schemas.begin(kind, &mut line.text.whole),
            None => line.push(kind.as_bytes()),
        }
        line
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
pub(crate) struct Line<'t> {
    text: &'t mut Text,
    start: usize,
    result: Result,
}

impl Line<'_> {
    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        let Text {
            part,
            filled,
            binary,
            whole,
        } = &mut *self.text;
        if binary.is_some() {
            if self.result.is_ok() {
                self.result = whole.extend_from_slice(bytes, gfp()).map_err(Into::into);
            }
            return;
        }
        match part
            .get_mut(*filled..)
            .and_then(|free| free.get_mut(..bytes.len()))
        {
            Some(free) => {
                copy_few(free, bytes);
                *filled += bytes.len();
            }
            None => self.push_long(bytes),
        }
    }

    /// `key`, with what stands around it.
    #[inline]
    fn push_key(&mut self, key: &[u8]) {
        let Text { part, filled, .. } = &mut *self.text;
        let free = part.get_mut(*filled..);
        match free.and_then(|free| free.get_mut(..key.len() + 2)) {
            Some([space, free @ .., equals]) => {
                *space = b' ';
                copy_few(free, key);
                *equals = b'=';
                *filled += key.len() + 2;
            }
            _ => {
                self.push(b" ");
                self.push(key);
                self.push(b"=");
            }
        }
    }

    /// Makes room first.
    #[cold]
    fn push_long(&mut self, bytes: &[u8]) {
        self.flush();
        for piece in bytes.chunks(PART) {
            self.text.part[..piece.len()].copy_from_slice(piece);
            self.text.filled = piece.len();
            if piece.len() == PART {
                self.flush();
            }
        }
    }

    /// Moves what is there of the line to the text.
    fn flush(&mut self) {
        let Text {
            whole,
            part,
            filled,
            ..
        } = &mut *self.text;
        if self.result.is_ok() {
            self.result = whole
                .extend_from_slice(&part[..*filled], gfp())
                .map_err(Into::into);
        }
        *filled = 0;
    }

    /// Begins a field. True: its value is wanted in the binary form.
    fn key(&mut self, key: &'static str, kind: Type) -> bool {
        if let Some(schemas) = &mut self.text.binary {
            if self.result.is_ok() {
                self.result = schemas.field(key, kind, &mut self.text.whole);
            }
            return true;
        }
        self.push_key(key.as_bytes());
        false
    }

    fn decimal(&mut self, mut number: u64) {
        let mut digits = [b'0'; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
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
        if self.key(key, Type::Number) {
            self.push(&number.to_le_bytes());
        } else {
            self.decimal(number);
        }
        self
    }

    /// A number that may be negative.
    pub(crate) fn signed(mut self, key: &'static str, number: i64) -> Self {
        if self.key(key, Type::Signed) {
            self.push(&number.to_le_bytes());
            return self;
        }
        if number < 0 {
            self.push(b"-");
        }
        self.decimal(number.unsigned_abs());
        self
    }

    /// An address or a page offset.
    pub(crate) fn hex(mut self, key: &'static str, number: usize) -> Self {
        if self.key(key, Type::Hex) {
            self.push(&(number as u64).to_le_bytes());
        } else {
            self.push(b"0x");
            self.hexadecimal(number as u64, 1);
        }
        self
    }

    /// An EtherType.
    pub(crate) fn hex16(mut self, key: &'static str, number: u16) -> Self {
        self.key(key, Type::Word);
        self.push(b"0x");
        self.hexadecimal(number.into(), 4);
        self
    }

    /// An object's id.
    pub(crate) fn id(mut self, key: &'static str, id: Id) -> Self {
        if self.key(key, Type::Id) {
            self.push(&id.get().to_le_bytes());
        } else {
            self.hexadecimal(id.get(), 16);
        }
        self
    }

    /// Yes or no.
    pub(crate) fn flag(mut self, key: &'static str, flag: bool) -> Self {
        if self.key(key, Type::Flag) {
            self.push(&[flag.into()]);
        } else {
            self.push(if flag { b"1" } else { b"0" });
        }
        self
    }

    /// A word, which needs no quotes.
    pub(crate) fn word(mut self, key: &'static str, word: &[u8]) -> Self {
        self.key(key, Type::Word);
        self.push(word);
        self
    }

    /// A word made of words, with commas between; `none` if there are none.
    pub(crate) fn words<'w>(
        mut self,
        key: &'static str,
        words: impl Iterator<Item = &'w [u8]>,
    ) -> Self {
        self.key(key, Type::Word);
        let mut any = false;
        for word in words {
            if any {
                self.push(b",");
            }
            self.push(word);
            any = true;
        }
        if !any {
            self.push(b"none");
        }
        self
    }

    /// A word made of a name and a number, for what has no name.
    pub(crate) fn numbered(mut self, key: &'static str, name: &str, number: u64) -> Self {
        self.key(key, Type::Word);
        self.push(name.as_bytes());
        self.decimal(number);
        self
    }

    /// A header offset of an sk_buff, and whether it is set.
    pub(crate) fn offset(mut self, key: &'static str, raw: u16, set: bool) -> Self {
        self.key(key, Type::Word);
        self.decimal(raw.into());
        self.push(if set { b":set" } else { b":unset" });
        self
    }

    /// Bytes in quotes.
    pub(crate) fn string(mut self, key: &'static str, bytes: &[u8]) -> Self {
        if self.key(key, Type::String) {
            self.push(bytes);
            return self;
        }
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
    pub(crate) fn bytes(mut self, key: &'static str, bytes: &[u8]) -> Self {
        self.key(key, Type::Word);
        for byte in bytes {
            self.hexadecimal((*byte).into(), 2);
        }
        self
    }

    /// Numbers with commas between; `none` if there are none.
    pub(crate) fn numbers(mut self, key: &'static str, numbers: &[u32]) -> Self {
        self.key(key, Type::Word);
        if numbers.is_empty() {
            self.push(b"none");
        }
        for (at, number) in numbers.iter().enumerate() {
            if at > 0 {
                self.push(b",");
            }
            self.decimal((*number).into());
        }
        self
    }

    /// Ends the record. If memory ran out, none of it stays.
    pub(crate) fn end(mut self) -> Result {
        if let Some(schemas) = &mut self.text.binary {
            if self.result.is_ok() {
                self.result = schemas.end(self.start, &mut self.text.whole);
            }
        } else {
            self.push(b"\n");
            self.flush();
        }
        if self.result.is_err() {
            self.text.truncate(self.start);
        }
        self.result
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
    pub(super) fn tell<'t>(&self, line: Line<'t>, mm: Id) -> Line<'t> {
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
