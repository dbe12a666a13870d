//! The binary form of records, which the module makes for programs: the same records, their keys told once.

use std::collections::HashSet;

use crate::line::Value;
use crate::{Error, Line, Text};

/// The first bytes of it.
pub(crate) const MAGIC: &[u8; 8] = b"\x7fravel\x00\x01";

/// The shape of what tells a shape.
const SHAPE: u32 = u32::MAX;

/// What records of one shape have.
#[derive(Debug)]
struct Shape<'a> {
    kind: &'a str,
    fields: Vec<(&'a str, u8)>,
}

/// The records one by one.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
    shapes: Vec<Shape<'a>>,
}

/// Takes the first bytes off.
fn take<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(taken)
}

fn take_u16(from: &mut &[u8]) -> Option<usize> {
    let bytes = take(from, 2)?;
    Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
}

fn take_u32(from: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(from, 4)?.try_into().ok()?))
}

fn take_u64(from: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(from, 8)?.try_into().ok()?))
}

fn take_name<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let len = take(from, 1)?[0];
    std::str::from_utf8(take(from, len.into())?)
        .ok()
        .filter(|name| !name.is_empty())
}

impl<'a> Shape<'a> {
    fn parse(mut text: &'a [u8]) -> Option<Self> {
        let kind = take_name(&mut text)?;
        let mut fields = Vec::new();
        while !text.is_empty() {
            let type_ = take(&mut text, 1)?[0];
            fields.push((take_name(&mut text)?, type_));
        }
        let keys: HashSet<&str> = fields.iter().map(|(key, _)| *key).collect();
        (keys.len() == fields.len()).then_some(Self { kind, fields })
    }

    fn values(&self, mut text: &'a [u8]) -> Option<Vec<(&'a str, Value<'a>)>> {
        let mut fields = Vec::with_capacity(self.fields.len());
        for (key, type_) in &self.fields {
            let value = match type_ {
                0 => Value::Number(take_u64(&mut text)?),
                1 => Value::Signed(take_u64(&mut text)? as i64),
                2 => Value::Hex(take_u64(&mut text)?),
                3 => Value::Id(take_u64(&mut text)?),
                4 => match take(&mut text, 1)? {
                    [0] => Value::Flag(false),
                    [1] => Value::Flag(true),
                    _ => return None,
                },
                5 | 6 => {
                    let len = take_u16(&mut text)?;
                    let bytes = take(&mut text, len)?;
                    if *type_ == 5 {
                        Value::Bare(std::str::from_utf8(bytes).ok()?)
                    } else {
                        Value::Quoted(Text::from(bytes.to_vec()))
                    }
                }
                _ => return None,
            };
            fields.push((*key, value));
        }
        text.is_empty().then_some(fields)
    }
}

impl<'a> Records<'a> {
    /// Of a whole answer, where it is in this form.
    pub(crate) fn new(answer: &'a [u8]) -> Option<Self> {
        let rest = answer.strip_prefix(MAGIC)?;
        Some(Self {
            rest,
            shapes: Vec::new(),
        })
    }

    /// The next record, which has that number; none at the end.
    pub(crate) fn next(&mut self, number: usize) -> Result<Option<Line<'a>>, Error> {
        while !self.rest.is_empty() {
            let cut = Error::Cut { lines: number - 1 };
            let wrong = |reason: &str| Error::Parse {
                line: number,
                reason: reason.to_owned(),
            };
            let mut rest = self.rest;
            let head = take_u32(&mut rest).zip(take_u32(&mut rest));
            let Some((len, shape)) = head else {
                return Err(cut);
            };
            let Some(body) = take(&mut rest, len as usize) else {
                return Err(cut);
            };
            self.rest = rest;
            if shape == SHAPE {
                let shape = Shape::parse(body);
                self.shapes
                    .push(shape.ok_or_else(|| wrong("not the shape of a record"))?);
                continue;
            }
            let shape = self.shapes.get(shape as usize);
            let shape = shape.ok_or_else(|| wrong("a record of no known shape"))?;
            let fields = shape.values(body);
            let fields = fields.ok_or_else(|| wrong("a record that is not of its shape"))?;
            return Ok(Some(Line::of(shape.kind, number, fields)));
        }
        Ok(None)
    }
}
