// SPDX-License-Identifier: GPL-2.0

//! Records as lines of text.

#![deny(unsafe_code)]

use super::{gfp, Fault};
use crate::object::{
    id::Id,
    process::{Owner, OwnerState, Relation},
};
use kernel::prelude::*;

/// Text that grows; running out of memory is an error, and leaves no half line.
#[derive(Default)]
pub(crate) struct Text(KVVec<u8>);

const HEX: &[u8; 16] = b"0123456789abcdef";

impl Text {
    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Forgets what was written, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets what was written after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Begins a record.
    pub(crate) fn record(&mut self, kind: &str) -> Line<'_> {
        let mut line = Line {
            start: self.0.len(),
            text: self,
            result: Ok(()),
        };
        line.push(kind.as_bytes());
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
    fn push(&mut self, bytes: &[u8]) {
        if self.result.is_ok() {
            self.result = self
                .text
                .0
                .extend_from_slice(bytes, gfp())
                .map_err(Into::into);
        }
    }

    fn key(&mut self, key: &str) {
        self.push(b" ");
        self.push(key.as_bytes());
        self.push(b"=");
    }

    fn digits(&mut self, mut number: u64, base: u64, least: usize) {
        let mut digits = [b'0'; 20];
        let mut at = digits.len();
        while number != 0 || digits.len() - at < least {
            at -= 1;
            digits[at] = HEX[(number % base) as usize];
            number /= base;
        }
        self.push(&digits[at..]);
    }

    /// A number that is not negative.
    pub(crate) fn number(mut self, key: &str, number: u64) -> Self {
        self.key(key);
        self.digits(number, 10, 1);
        self
    }

    /// A number that may be negative.
    pub(crate) fn signed(mut self, key: &str, number: i64) -> Self {
        self.key(key);
        if number < 0 {
            self.push(b"-");
        }
        self.digits(number.unsigned_abs(), 10, 1);
        self
    }

    /// An address or a page offset.
    pub(crate) fn hex(mut self, key: &str, number: usize) -> Self {
        self.key(key);
        self.push(b"0x");
        self.digits(number as u64, 16, 1);
        self
    }

    /// An EtherType.
    pub(crate) fn hex16(mut self, key: &str, number: u16) -> Self {
        self.key(key);
        self.push(b"0x");
        self.digits(number.into(), 16, 4);
        self
    }

    /// An object's id.
    pub(crate) fn id(mut self, key: &str, id: Id) -> Self {
        self.key(key);
        self.digits(id.get(), 16, 16);
        self
    }

    /// Yes or no.
    pub(crate) fn flag(mut self, key: &str, flag: bool) -> Self {
        self.key(key);
        self.push(if flag { b"1" } else { b"0" });
        self
    }

    /// A word, which needs no quotes.
    pub(crate) fn word(mut self, key: &str, word: &[u8]) -> Self {
        self.key(key);
        self.push(word);
        self
    }

    /// A word made of words, with commas between; `none` if there are none.
    pub(crate) fn words<'w>(mut self, key: &str, words: impl Iterator<Item = &'w [u8]>) -> Self {
        self.key(key);
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
    pub(crate) fn numbered(mut self, key: &str, name: &str, number: u64) -> Self {
        self.key(key);
        self.push(name.as_bytes());
        self.digits(number, 10, 1);
        self
    }

    /// A header offset of an sk_buff, and whether it is set.
    pub(crate) fn offset(mut self, key: &str, raw: u16, set: bool) -> Self {
        self.key(key);
        self.digits(raw.into(), 10, 1);
        self.push(if set { b":set" } else { b":unset" });
        self
    }

    /// Bytes in quotes.
    pub(crate) fn string(mut self, key: &str, bytes: &[u8]) -> Self {
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
                    self.digits(byte.into(), 16, 2);
                }
            }
            rest = &rest[at + 1..];
        }
        self.push(rest);
        self.push(b"\"");
        self
    }

    /// Numbers with commas between; `none` if there are none.
    pub(crate) fn numbers(mut self, key: &str, numbers: &[u32]) -> Self {
        self.key(key);
        if numbers.is_empty() {
            self.push(b"none");
        }
        for (at, number) in numbers.iter().enumerate() {
            if at > 0 {
                self.push(b",");
            }
            self.digits((*number).into(), 10, 1);
        }
        self
    }

    /// Ends the record. If memory ran out, none of it stays.
    pub(crate) fn end(mut self) -> Result {
        self.push(b"\n");
        if self.result.is_err() {
            self.text.0.truncate(self.start);
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
