// SPDX-License-Identifier: GPL-2.0

//! The binary form of records: FORMAT.md has its description.
//!
//! It says the same as the text, record by record, and is made from the same calls: which keys a kind of record
//! has is told once, before the first of its shape, and its records then hold values alone.

#![deny(unsafe_code)]

use super::gfp;
use kernel::prelude::*;

/// The first bytes of a stream. No text begins so.
pub(super) const MAGIC: &[u8; 8] = b"\x7fravel\x00\x01";

/// The shape of what tells a shape.
const SHAPE: u32 = u32::MAX;

/// What a value is. The numbers are the format's.
#[derive(Clone, Copy)]
pub(super) enum Type {
    /// Eight bytes.
    Number = 0,
    /// Eight bytes, two's complement.
    Signed = 1,
    /// Eight bytes; in text, hexadecimal behind `0x`.
    Hex = 2,
    /// Eight bytes; in text, 16 hexadecimal digits.
    Id = 3,
    /// A byte, 0 or 1.
    Flag = 4,
    /// Two bytes of length, and what stands in the text.
    Word = 5,
    /// Two bytes of length, and the bytes that stand in the text in quotes.
    String = 6,
}

/// The shapes that were told, and the record at hand.
#[derive(Default)]
pub(super) struct Schemas {
    /// A fingerprint of each shape that was told, and where in the text. The place says its number.
    told: KVec<(u64, usize)>,
    kind: &'static str,
    keys: KVec<(&'static str, Type)>,
    print: u64,
    /// Where the length of the value at hand belongs.
    open: Option<usize>,
}

impl Schemas {
    /// The text is given away: what is told stays told.
    pub(super) fn settle(&mut self) {
        for (_, at) in &mut self.told {
            *at = 0;
        }
    }

    /// What was told behind that place was not told.
    pub(super) fn forget(&mut self, len: usize) {
        while self.told.last().is_some_and(|(_, at)| *at > len) {
            self.told.pop();
        }
    }

    /// Begins a record.
    pub(super) fn begin(&mut self, kind: &'static str, text: &mut KVVec<u8>) -> Result {
        self.kind = kind;
        self.keys.clear();
        self.open = None;
        self.print = mix(0, kind, 0);
        // Length and shape come when they are known.
        Ok(text.extend_from_slice(&[0; 8], gfp())?)
    }

    /// Begins a field.
    pub(super) fn field(&mut self, key: &'static str, kind: Type, text: &mut KVVec<u8>) -> Result {
        self.close(text)?;
        self.keys.push((key, kind), gfp())?;
        self.print = mix(self.print, key, kind as u64);
        if matches!(kind, Type::Word | Type::String) {
            self.open = Some(text.len());
            text.extend_from_slice(&[0; 2], gfp())?;
        }
        Ok(())
    }

    /// Ends a value whose length was not known.
    fn close(&mut self, text: &mut KVVec<u8>) -> Result {
        if let Some(at) = self.open.take() {
            let len = u16::try_from(text.len() - at - 2).map_err(|_| EOVERFLOW)?;
            text[at..at + 2].copy_from_slice(&len.to_le_bytes());
        }
        Ok(())
    }

    /// Ends the record that begins at `start`; its shape is told before it, if it is new.
    pub(super) fn end(&mut self, start: usize, text: &mut KVVec<u8>) -> Result {
        self.close(text)?;
        let len = u32::try_from(text.len() - start - 8).map_err(|_| EOVERFLOW)?;
        let known = self.told.iter().position(|(print, _)| *print == self.print);
        let shape = known.unwrap_or(self.told.len()) as u32;
        head(&mut text[start..], len, shape);
        if known.is_none() {
            let record = text.len() - start;
            self.tell(text)?;
            // Behind `start`, so that whoever cuts the text there forgets it.
            self.told.push((self.print, start + 1), gfp())?;
            text[start..].rotate_left(record);
        }
        Ok(())
    }

    /// Tells a shape: its kind of record, and each field's type and key.
    fn tell(&self, text: &mut KVVec<u8>) -> Result {
        let start = text.len();
        text.extend_from_slice(&[0; 8], gfp())?;
        text.extend_from_slice(&[self.kind.len() as u8], gfp())?;
        text.extend_from_slice(self.kind.as_bytes(), gfp())?;
        for (key, kind) in &self.keys {
            text.extend_from_slice(&[*kind as u8, key.len() as u8], gfp())?;
            text.extend_from_slice(key.as_bytes(), gfp())?;
        }
        let len = (text.len() - start - 8) as u32;
        head(&mut text[start..], len, SHAPE);
        Ok(())
    }
}

/// The head of a record: bytes behind it, and its shape.
fn head(text: &mut [u8], len: u32, shape: u32) {
    text[..4].copy_from_slice(&len.to_le_bytes());
    text[4..8].copy_from_slice(&shape.to_le_bytes());
}

/// A step of a fingerprint. Strings are told apart by where they lie: the same in two places is told twice.
fn mix(print: u64, text: &'static str, kind: u64) -> u64 {
    let word = text.as_ptr().addr() as u64 ^ (text.len() as u64) << 48 ^ kind << 56;
    (print.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
