// SPDX-License-Identifier: GPL-2.0

//! Records as lines of text, or in the binary form that programs may ask for.
//!
//! The binary form is what [`records`](crate::records) defines: each record is its structure behind
//! a header, and its strings behind that.

#![deny(unsafe_code)]

use super::{
    buffer::{copy_few, Buffer},
    Fault,
};
use crate::{
    object::{bytes::bytes_of, compat::ENODATA},
    records::{
        common::{Errno, Error as ErrorRecord, ReportName},
        header, prefix, Address, AddressText, Key, Name, Numbers, Record, Sink, Str, Tail, HEADER,
    },
};
use kernel::prelude::*;

/// A form of records.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// Lines.
    #[default]
    Text,
    /// Structures.
    Binary,
}

/// Records, one behind the other; running out of memory is an error, and leaves no half record.
#[derive(Default)]
pub(crate) struct Text {
    buffer: Buffer,
    form: Form,
}

impl Text {
    /// In a form.
    pub(crate) fn new(form: Form) -> Result<Self> {
        let mut text = Self::default();
        text.restart(form)?;
        Ok(text)
    }

    /// Restarts in a form. The capacity is kept.
    pub(crate) fn restart(&mut self, form: Form) -> Result {
        self.buffer.truncate(0);
        self.form = form;
        match form {
            Form::Text => Ok(()),
            Form::Binary => self.buffer.push(&const { prefix() }),
        }
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

    /// Drops the text, which the reader has, and keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.buffer.truncate(0);
    }

    /// Forgets what was written after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len);
    }

    /// Writes a record, whose strings are in `tail`. If memory runs out, none of it stays.
    #[inline]
    pub(crate) fn put<R: Record>(&mut self, record: &R, tail: Tail<'_, '_>) -> Result {
        match self.form {
            Form::Text => self.put_text(record, tail),
            Form::Binary => self.put_binary(R::INFO.kind, bytes_of(record), tail),
        }
    }

    #[inline(never)]
    fn put_text<R: Record>(&mut self, record: &R, tail: Tail<'_, '_>) -> Result {
        // A byte of a string has four of text at most.
        let strings: usize = tail.iter().map(|piece| piece.len()).sum();
        let room = self.buffer.room(R::MOST + strings * 4)?;
        let mut line = Line {
            room,
            len: 0,
            fits: true,
        };
        line.push(R::INFO.name.as_bytes());
        record.write(tail, &mut line);
        line.push(b"\n");
        let Line { len, fits, .. } = line;
        // By the definition of `MOST`, there is room for all of it.
        if !fits {
            return Err(EOVERFLOW);
        }
        self.buffer.advance(len);
        Ok(())
    }

    #[inline(never)]
    fn put_binary(&mut self, kind: u16, fields: &[u8], tail: Tail<'_, '_>) -> Result {
        let strings: usize = tail.iter().map(|piece| piece.len()).sum();
        let used = HEADER + fields.len() + strings;
        let len = used.next_multiple_of(8);
        let header = header(kind, fields.len() as u16, len as u32);
        let mut free = self.buffer.room(len)?;
        let mut push = |bytes: &[u8]| {
            let (to, rest) = core::mem::take(&mut free)
                .split_at_mut_checked(bytes.len())
                .unwrap_or_default();
            copy_few(to, bytes);
            free = rest;
        };
        push(&header);
        push(fields);
        for piece in tail {
            push(piece);
        }
        // So that the next record begins at a multiple of 8.
        push(&[0; 7][..len - used]);
        self.buffer.advance(len);
        Ok(())
    }

    /// Writes an `error` record. `pid` is 0 where none was named.
    pub(crate) fn fault(&mut self, report: ReportName, pid: i32, fault: Fault) -> Result {
        let message = fault.message.as_bytes();
        let record = ErrorRecord {
            report,
            pid: pid.into(),
            errno: name(fault.errno),
            message: Str::at(0, message.len()),
        };
        self.put(&record, &[message])
    }
}

/// A line of text being written. There is room for all of it, by the most bytes that a record has.
struct Line<'b> {
    room: &'b mut [u8],
    len: usize,
    /// There was.
    fits: bool,
}

impl Line<'_> {
    /// Appends bytes.
    #[inline(always)]
    fn push(&mut self, bytes: &[u8]) {
        let free = self.room.get_mut(self.len..).unwrap_or_default();
        match free.get_mut(..bytes.len()) {
            Some(free) => {
                copy_few(free, bytes);
                self.len = self.len.wrapping_add(bytes.len());
            }
            None => self.fits = false,
        }
    }

    /// Appends ` key=`.
    #[inline(always)]
    fn key(&mut self, key: Key) {
        let free = self.room.get_mut(self.len..).unwrap_or_default();
        match free.get_mut(..key.len() + 2) {
            Some([space, of_key @ .., equals]) => {
                *space = b' ';
                of_key.copy_from_slice(key.as_bytes());
                *equals = b'=';
                self.len = self.len.wrapping_add(key.len() + 2);
            }
            _ => self.fits = false,
        }
    }

    #[inline(never)]
    fn decimal(&mut self, number: u64) {
        let digits = Digits::of(number);
        self.push(digits.bytes());
    }

    /// At least that many digits.
    #[inline(never)]
    fn hexadecimal(&mut self, number: u64, least: u32) {
        let needed = (u64::BITS - number.leading_zeros()).div_ceil(4);
        let count = needed.max(least) as usize;
        let mut digits = [0; 16];
        digits[..8].copy_from_slice(&eight_digits((number >> 32) as u32));
        digits[8..].copy_from_slice(&eight_digits(number as u32));
        self.push(&digits[16 - count..]);
    }

    /// Appends bytes in quotes, those that need it as escapes.
    #[inline(never)]
    fn quoted(&mut self, bytes: &[u8]) {
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
    }

    #[inline(never)]
    fn long_bits(&mut self, bits: u64, names: &[Name]) {
        each_name(bits, names, |bytes| self.push(bytes));
    }
}

/// The names of bits, and the commas between them; `none` if there are none.
fn each_name(bits: u64, names: &[Name], mut push: impl FnMut(&[u8])) {
    let mut any = false;
    for name in names {
        if bits & name.value != 0 {
            if any {
                push(b",");
            }
            push(name.name.as_bytes());
            any = true;
        }
    }
    if !any {
        push(b"none");
    }
}

/// Numbers with commas between; `none` if there are none.
fn each_number(numbers: &Numbers, mut push: impl FnMut(&[u8])) {
    let mut any = false;
    for number in numbers.get().into_iter().flatten() {
        if any {
            push(b",");
        }
        push(Digits::of(number.into()).bytes());
        any = true;
    }
    if !any {
        push(b"none");
    }
}

impl<'r> Sink<'r> for Line<'_> {
    #[inline(always)]
    fn number(&mut self, key: Key, number: u64) {
        self.key(key);
        // Most are that small.
        if number < 10 {
            self.push(&[b'0' + number as u8]);
        } else {
            self.decimal(number);
        }
    }

    #[inline(always)]
    fn signed(&mut self, key: Key, number: i64) {
        self.key(key);
        if number < 0 {
            self.push(b"-");
        }
        self.decimal(number.unsigned_abs());
    }

    #[inline(always)]
    fn hex(&mut self, key: Key, number: u64) {
        self.key(key);
        self.push(b"0x");
        self.hexadecimal(number, 1);
    }

    #[inline(always)]
    fn ether_type(&mut self, key: Key, number: u16) {
        self.key(key);
        self.push(b"0x");
        self.hexadecimal(number.into(), 4);
    }

    #[inline(always)]
    fn id(&mut self, key: Key, id: u64) {
        self.key(key);
        self.hexadecimal(id, 16);
    }

    #[inline(always)]
    fn flag(&mut self, key: Key, flag: bool) {
        self.key(key);
        self.push(&[b'0' + u8::from(flag)]);
    }

    #[inline(always)]
    fn offset(&mut self, key: Key, raw: u16, set: bool) {
        self.key(key);
        self.decimal(raw.into());
        self.push(if set { b":set" } else { b":unset" });
    }

    #[inline(always)]
    fn word(&mut self, key: Key, word: &'r [u8]) {
        self.key(key);
        self.push(word);
    }

    #[inline(always)]
    fn numbered(&mut self, key: Key, prefix: &'static str, number: u64) {
        self.key(key);
        self.push(prefix.as_bytes());
        self.decimal(number);
    }

    #[inline(always)]
    fn bits(&mut self, key: Key, bits: u64, names: &'static [Name]) {
        self.key(key);
        match bits {
            0 => self.push(b"none"),
            bits => self.long_bits(bits, names),
        }
    }

    #[inline(always)]
    fn string(&mut self, key: Key, bytes: &'r [u8]) {
        self.key(key);
        self.quoted(bytes);
    }

    fn bytes(&mut self, key: Key, bytes: &'r [u8]) {
        self.key(key);
        for byte in bytes {
            self.hexadecimal((*byte).into(), 2);
        }
    }

    fn numbers(&mut self, key: Key, numbers: &'r Numbers) {
        self.key(key);
        each_number(numbers, |bytes| self.push(bytes));
    }

    #[inline(never)]
    fn address(&mut self, key: Key, address: &'r Address, tail: Tail<'_, 'r>) {
        let mut room = AddressText::default();
        self.key(key);
        if let Some(path) = address.path_in(tail) {
            return self.quoted(path.unwrap_or_default());
        }
        let text = address.text(tail, &mut room);
        self.push(b"\"");
        self.push(text);
        self.push(b"\"");
    }

    fn wrong(&mut self, _key: Key) {
        self.fits = false;
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

/// The two digits of a number below 100.
#[inline(always)]
fn pair(number: u64) -> [u8; 2] {
    const PAIRS: [[u8; 2]; 100] = {
        let mut pairs = [[0; 2]; 100];
        let mut at = 0;
        while at < 100 {
            pairs[at] = [b'0' + (at / 10) as u8, b'0' + (at % 10) as u8];
            at += 1;
        }
        pairs
    };
    *PAIRS.get(number as usize).unwrap_or(&[b'0'; 2])
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
        // Two at once: half as many divisions.
        while number >= 100 {
            first = first.wrapping_sub(2);
            if let Some(to) = digits.get_mut(first..).and_then(<[u8]>::first_chunk_mut) {
                *to = pair(number % 100);
            }
            number /= 100;
        }
        first = first.wrapping_sub(2);
        if let Some(to) = digits.get_mut(first..).and_then(<[u8]>::first_chunk_mut) {
            *to = pair(number);
        }
        // The first of them may be a 0 that does not belong to the number.
        first += usize::from(number < 10);
        Self { digits, first }
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        self.digits.get(self.first..).unwrap_or_default()
    }
}

/// The name of an errno that ravel answers with. The kernel has names only with
/// CONFIG_SYMBOLIC_ERRNAME.
fn name(errno: Error) -> Errno {
    match errno {
        _ if errno == EINVAL => Errno::EINVAL,
        _ if errno == ESRCH => Errno::ESRCH,
        _ if errno == ENODATA => Errno::ENODATA,
        _ if errno == ENOMEM => Errno::ENOMEM,
        _ if errno == EINTR => Errno::EINTR,
        _ if errno == EBADF => Errno::EBADF,
        _ if errno == EFAULT => Errno::EFAULT,
        _ => Errno::EIO,
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}
