// SPDX-License-Identifier: GPL-2.0

//! The binary form of records: FORMAT.md has its description.
//!
//! It says the same as the text, record by record, and is made from the same calls: which keys a kind of record
//! has is emitted once, before the first of its shape, and its records then hold values alone.

#![deny(unsafe_code)]

use super::{buffer::Buffer, gfp};
use core::ptr;
use kernel::prelude::*;

/// The first bytes of a stream. No text begins so.
pub(super) const MAGIC: &[u8; 8] = b"\x7fravel\x00\x02";

/// The shape of a record that describes a shape.
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
    /// Two bytes; in text, four hexadecimal digits behind `0x`.
    Ether = 7,
    /// Two bytes, and one that is 1 where it is set.
    Offset = 8,
}

/// A key, and what its value is.
#[derive(Clone, Copy)]
struct Field {
    key: &'static str,
    kind: Type,
}

impl Field {
    /// Keys are compared by address: a shape whose keys exist at two addresses is emitted twice.
    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        ptr::eq(self.key, other.key) && self.kind == other.kind
    }
}

/// A shape that was emitted.
struct Shape {
    kind: &'static str,
    /// Which of all fields are its own.
    from: usize,
    end: usize,
    /// Offset in the text at which it was emitted; 0 once the reader has that text.
    at: usize,
    /// When a record last had it, in records.
    used: u64,
}

/// The emitted shapes, and the current record.
///
/// That is taken to have the shape which the last of its kind had, until a field says otherwise.
#[derive(Default)]
pub(super) struct Schemas {
    emitted: KVec<Shape>,
    /// The fields of all of these, one shape's behind the other's.
    fields: KVec<Field>,
    records: u64,
    kind: &'static str,
    /// The shape that it has as far as it goes; which field is expected next, and where they end.
    likely: Option<usize>,
    next: usize,
    end: usize,
    /// Where it has no such shape: its fields.
    own: KVec<Field>,
}

impl Schemas {
    /// The reader has the text: emitted shapes stay known.
    pub(super) fn settle(&mut self) {
        for shape in &mut self.emitted {
            shape.at = 0;
        }
    }

    /// No shape was emitted.
    pub(super) fn restart(&mut self) {
        self.emitted.clear();
        self.fields.clear();
    }

    /// Forgets the shapes that were emitted after that offset.
    pub(super) fn forget(&mut self, len: usize) {
        while let Some(last) = self.emitted.last().filter(|shape| shape.at > len) {
            self.fields.truncate(last.from);
            self.emitted.pop();
        }
    }

    /// Begins a record.
    pub(super) fn begin(&mut self, kind: &'static str, text: &mut Buffer) -> Result {
        self.kind = kind;
        self.own.clear();
        let likely = self.find(&[]);
        self.expect(likely, 0);
        // Length and shape come when they are known.
        text.push_array(&[0; 8])
    }

    /// Takes the record to have a shape, of which it has so many fields.
    fn expect(&mut self, shape: Option<usize>, passed: usize) {
        let fields = shape.and_then(|at| self.emitted.get(at));
        (self.next, self.end) = fields.map_or((0, 0), |shape| (shape.from + passed, shape.end));
        self.likely = shape;
    }

    fn fields_of(&self, shape: &Shape) -> &[Field] {
        self.fields.get(shape.from..shape.end).unwrap_or_default()
    }

    fn begins_with(&self, shape: &Shape, fields: &[Field]) -> bool {
        let its = self.fields_of(shape);
        let same = |(one, other): (&Field, &Field)| one.is(other);
        ptr::eq(self.kind, shape.kind)
            && its.len() >= fields.len()
            && its.iter().zip(fields).all(same)
    }

    /// The shape of this kind that begins so, and was used last.
    fn find(&self, fields: &[Field]) -> Option<usize> {
        let emitted = self.emitted.iter().enumerate();
        emitted
            .filter(|(_, shape)| self.begins_with(shape, fields))
            .max_by_key(|(_, shape)| shape.used)
            .map(|(at, _)| at)
    }

    /// Begins a field.
    #[inline(always)]
    pub(super) fn field(&mut self, key: &'static str, kind: Type) -> Result {
        let field = Field { key, kind };
        if self.next < self.end {
            if let Some(expected) = self.fields.get(self.next) {
                if expected.is(&field) {
                    self.next += 1;
                    return Ok(());
                }
            }
        }
        self.stray(field)
    }

    /// A field that is not the likely one: it is another shape's, or a new one's.
    #[inline(never)]
    fn stray(&mut self, field: Field) -> Result {
        self.leave()?;
        self.own.push(field, gfp())?;
        let likely = self.find(&self.own);
        self.expect(likely, self.own.len());
        Ok(())
    }

    /// Takes down the fields so far.
    fn leave(&mut self) -> Result {
        if let Some(shape) = self.likely.and_then(|at| self.emitted.get(at)) {
            let passed = self.fields.get(shape.from..self.next);
            self.own.clear();
            self.own
                .extend_from_slice(passed.unwrap_or_default(), gfp())?;
        }
        self.expect(None, 0);
        Ok(())
    }

    /// Ends the record that begins at `start`; its shape is emitted before it, if it is new.
    pub(super) fn end(&mut self, start: usize, text: &mut Buffer) -> Result {
        let len = u32::try_from(text.len() - start - 8).map_err(|_| EOVERFLOW)?;
        let known = match self.likely.filter(|_| self.next == self.end) {
            None => {
                self.leave()?;
                let same = |shape: &Shape| {
                    self.fields_of(shape).len() == self.own.len()
                        && self.begins_with(shape, &self.own)
                };
                self.emitted.iter().position(same)
            }
            known => known,
        };
        let shape = known.unwrap_or(self.emitted.len());
        head(&mut text.bytes_mut()[start..], len, shape as u32);
        if known.is_none() {
            let record = text.len() - start;
            self.write(start, text)?;
            text.bytes_mut()[start..].rotate_left(record);
        }
        self.records += 1;
        self.emitted[shape].used = self.records;
        Ok(())
    }

    /// Tells the shape of the record that begins at `start`: its kind, and each field's type and key.
    fn write(&mut self, start: usize, text: &mut Buffer) -> Result {
        let frame = text.len();
        text.push(&[0; 8])?;
        text.push(&[self.kind.len() as u8])?;
        text.push(self.kind.as_bytes())?;
        for field in &self.own {
            text.push(&[field.kind as u8, field.key.len() as u8])?;
            text.push(field.key.as_bytes())?;
        }
        let len = (text.len() - frame - 8) as u32;
        head(&mut text.bytes_mut()[frame..], len, SHAPE);
        self.emitted.reserve(1, gfp())?;
        let from = self.fields.len();
        self.fields.extend_from_slice(&self.own, gfp())?;
        let shape = Shape {
            kind: self.kind,
            from,
            end: self.fields.len(),
            // Behind `start`, so that whoever cuts the text there forgets it.
            at: start + 1,
            used: 0,
        };
        Ok(self.emitted.push(shape, gfp())?)
    }
}

/// The head of a record: bytes behind it, and its shape.
fn head(text: &mut [u8], len: u32, shape: u32) {
    text[..4].copy_from_slice(&len.to_le_bytes());
    text[4..8].copy_from_slice(&shape.to_le_bytes());
}
