// SPDX-License-Identifier: GPL-2.0

//! The binary form of records: FORMAT.md has its description.
//!
//! It says the same as the text, record by record, and is made from the same calls: which keys a kind of record
//! has is told once, before the first of its shape, and its records then hold values alone.

#![deny(unsafe_code)]

use super::{buffer::Buffer, gfp};
use core::ptr;
use kernel::prelude::*;

/// The first bytes of a stream. No text begins so.
pub(super) const MAGIC: &[u8; 8] = b"\x7fravel\x00\x01";

/// The shape of what tells a shape.
const SHAPE: u32 = u32::MAX;

/// What a value is. The numbers are the format's.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// A key, and what its value is.
#[derive(Clone, Copy)]
struct Field {
    key: &'static str,
    kind: Type,
}

impl Field {
    /// Keys are told apart by where they lie: a shape with the same in two places is told twice.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        ptr::eq(self.key, other.key) && self.kind == other.kind
    }
}

/// A shape that was told.
struct Shape {
    kind: &'static str,
    fields: KVec<Field>,
    /// Where in the text it was told; 0 once that is given away.
    at: usize,
    /// When a record last had it, in records.
    used: u64,
}

impl Shape {
    fn begins_with(&self, kind: &str, fields: &[Field]) -> bool {
        let same = |(one, other): (&Field, &Field)| one.is(other);
        ptr::eq(self.kind, kind)
            && self.fields.len() >= fields.len()
            && self.fields.iter().zip(fields).all(same)
    }
}

/// The shapes that were told, and the record at hand.
///
/// That is taken to have the shape which the last of its kind had, until a field says otherwise.
#[derive(Default)]
pub(super) struct Schemas {
    told: KVec<Shape>,
    records: u64,
    kind: &'static str,
    /// The shape that it has as far as it goes, of which it had so many fields.
    likely: Option<usize>,
    passed: usize,
    /// Where it has no such shape: its fields.
    fields: KVec<Field>,
    /// Where the length of the value at hand belongs.
    open: Option<usize>,
}

impl Schemas {
    /// The text is given away: what is told stays told.
    pub(super) fn settle(&mut self) {
        for shape in &mut self.told {
            shape.at = 0;
        }
    }

    /// What was told behind that place was not told.
    pub(super) fn forget(&mut self, len: usize) {
        while self.told.last().is_some_and(|shape| shape.at > len) {
            self.told.pop();
        }
    }

    /// Begins a record.
    pub(super) fn begin(&mut self, kind: &'static str, text: &mut Buffer) -> Result {
        self.kind = kind;
        self.fields.clear();
        self.passed = 0;
        self.open = None;
        self.likely = self.find(&[]);
        // Length and shape come when they are known.
        text.push(&[0; 8])
    }

    /// The shape of this kind that begins so, and was used last.
    fn find(&self, fields: &[Field]) -> Option<usize> {
        let told = self.told.iter().enumerate();
        told.filter(|(_, shape)| shape.begins_with(self.kind, fields))
            .max_by_key(|(_, shape)| shape.used)
            .map(|(at, _)| at)
    }

    /// Begins a field.
    #[inline(always)]
    pub(super) fn field(&mut self, key: &'static str, kind: Type, text: &mut Buffer) -> Result {
        if self.open.is_some() {
            self.close(text)?;
        }
        let field = Field { key, kind };
        let likely = self.likely.and_then(|at| self.told.get(at));
        match likely.and_then(|shape| shape.fields.get(self.passed)) {
            Some(expected) if expected.is(&field) => self.passed += 1,
            _ => self.stray(field)?,
        }
        if matches!(kind, Type::Word | Type::String) {
            let at = text.len();
            text.push(&[0; 2])?;
            self.open = Some(at);
        }
        Ok(())
    }

    /// A field that is not the likely one: it is another shape's, or a new one's.
    #[inline(never)]
    fn stray(&mut self, field: Field) -> Result {
        self.leave()?;
        self.fields.push(field, gfp())?;
        self.likely = self.find(&self.fields);
        if self.likely.is_some() {
            self.passed = self.fields.len();
        }
        Ok(())
    }

    /// Takes down the fields so far.
    fn leave(&mut self) -> Result {
        if let Some(shape) = self.likely.take().and_then(|at| self.told.get(at)) {
            self.fields.clear();
            self.fields
                .extend_from_slice(&shape.fields[..self.passed], gfp())?;
        }
        Ok(())
    }

    /// Ends a value whose length was not known.
    #[inline(never)]
    fn close(&mut self, text: &mut Buffer) -> Result {
        if let Some(at) = self.open.take() {
            let len = u16::try_from(text.len() - at - 2).map_err(|_| EOVERFLOW)?;
            text.bytes_mut()[at..at + 2].copy_from_slice(&len.to_le_bytes());
        }
        Ok(())
    }

    /// Ends the record that begins at `start`; its shape is told before it, if it is new.
    pub(super) fn end(&mut self, start: usize, text: &mut Buffer) -> Result {
        self.close(text)?;
        let len = u32::try_from(text.len() - start - 8).map_err(|_| EOVERFLOW)?;
        let known = self.likely.filter(|at| self.ends(*at));
        let known = match known {
            None => {
                self.leave()?;
                let same = |shape: &Shape| {
                    shape.fields.len() == self.fields.len()
                        && shape.begins_with(self.kind, &self.fields)
                };
                self.told.iter().position(same)
            }
            known => known,
        };
        let shape = known.unwrap_or(self.told.len());
        head(&mut text.bytes_mut()[start..], len, shape as u32);
        if known.is_none() {
            let record = text.len() - start;
            self.tell(start, text)?;
            text.bytes_mut()[start..].rotate_left(record);
        }
        self.records += 1;
        self.told[shape].used = self.records;
        Ok(())
    }

    /// Whether the record at hand has all fields of that shape.
    fn ends(&self, at: usize) -> bool {
        self.told
            .get(at)
            .is_some_and(|shape| shape.fields.len() == self.passed)
    }

    /// Tells the shape of the record that begins at `start`: its kind, and each field's type and key.
    fn tell(&mut self, start: usize, text: &mut Buffer) -> Result {
        let frame = text.len();
        text.push(&[0; 8])?;
        text.push(&[self.kind.len() as u8])?;
        text.push(self.kind.as_bytes())?;
        for field in &self.fields {
            text.push(&[field.kind as u8, field.key.len() as u8])?;
            text.push(field.key.as_bytes())?;
        }
        let len = (text.len() - frame - 8) as u32;
        head(&mut text.bytes_mut()[frame..], len, SHAPE);
        let mut fields = KVec::with_capacity(self.fields.len(), gfp())?;
        fields.extend_from_slice(&self.fields, gfp())?;
        let shape = Shape {
            kind: self.kind,
            fields,
            // Behind `start`, so that whoever cuts the text there forgets it.
            at: start + 1,
            used: 0,
        };
        Ok(self.told.push(shape, gfp())?)
    }
}

/// The head of a record: bytes behind it, and its shape.
fn head(text: &mut [u8], len: u32, shape: u32) {
    text[..4].copy_from_slice(&len.to_le_bytes());
    text[4..8].copy_from_slice(&shape.to_le_bytes());
}
