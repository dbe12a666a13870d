//! The binary form of records, which the module makes for programs: the same records, their keys told once.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ptr;
use std::rc::Rc;

use crate::line::{Quoted, Value};
use crate::{Error, Line};

/// The first bytes of it.
pub(crate) const MAGIC: &[u8; 8] = b"\x7fravel\x00\x02";

/// The shape of what tells a shape.
const SHAPE: u32 = u32::MAX;

/// What records of one shape have.
#[derive(Debug)]
pub(crate) struct Shape<'a> {
    /// Their kind.
    pub(crate) kind: &'a str,
    /// The keys of their values.
    pub(crate) keys: Vec<&'a str>,
    /// What these are.
    types: Vec<u8>,
    /// Where the keys of a type of record stand among them: worked out once for all records.
    places: RefCell<Vec<(Keys, Places)>>,
}

/// The keys of a type of record.
type Keys = &'static [&'static str];

/// The place of each; [`NOWHERE`] where it has none.
type Places = Rc<[u16]>;

/// A place behind all that there can be.
const NOWHERE: u16 = u16::MAX;

/// The records one by one.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
    shapes: Vec<Rc<Shape<'a>>>,
}

/// Takes the first bytes off.
#[inline]
fn take<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(taken)
}

#[inline]
fn take_u16(from: &mut &[u8]) -> Option<u16> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u16::from_le_bytes(*bytes))
}

fn take_u32(from: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(take(from, 4)?.try_into().ok()?))
}

#[inline]
fn take_u64(from: &mut &[u8]) -> Option<u64> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u64::from_le_bytes(*bytes))
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
        let (mut keys, mut types) = (Vec::new(), Vec::new());
        while !text.is_empty() {
            types.push(take(&mut text, 1)?[0]);
            keys.push(take_name(&mut text)?);
        }
        let all_differ = keys.iter().collect::<HashSet<_>>().len() == keys.len();
        (all_differ && keys.len() < usize::from(NOWHERE)).then_some(Self {
            kind,
            keys,
            types,
            places: RefCell::default(),
        })
    }

    /// Where the keys of a type of record stand.
    pub(crate) fn places(&self, keys: Keys) -> Places {
        let mut known = self.places.borrow_mut();
        if let Some((_, places)) = known.iter().find(|(its, _)| ptr::eq(*its, keys)) {
            return places.clone();
        }
        let place = |key: &&str| self.keys.iter().position(|its| its == key);
        let places = keys
            .iter()
            .map(|key| place(key).map_or(NOWHERE, |place| place as u16));
        let places: Places = places.collect();
        known.push((keys, places.clone()));
        places
    }

    /// Puts the values of a record of this shape in the place of others. None where it is no such record.
    pub(crate) fn values(&self, mut text: &'a [u8], values: &mut Vec<Value<'a>>) -> Option<()> {
        values.resize(self.types.len(), Value::Flag(false));
        for (value, type_) in values.iter_mut().zip(&self.types) {
            *value = match type_ {
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
                    let bytes = take(&mut text, len.into())?;
                    if *type_ == 5 {
                        Value::Bare(std::str::from_utf8(bytes).ok()?)
                    } else {
                        Value::Quoted(Quoted::plain(bytes))
                    }
                }
                7 => Value::EtherType(take_u16(&mut text)?),
                8 => {
                    let raw = take_u16(&mut text)?;
                    match take(&mut text, 1)? {
                        [0] => Value::Offset(raw, false),
                        [1] => Value::Offset(raw, true),
                        _ => return None,
                    }
                }
                _ => return None,
            };
        }
        text.is_empty().then_some(())
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

    /// Goes on to the next record, which has that number: whether there is one.
    pub(crate) fn next(&mut self, line: &mut Line<'a>, number: usize) -> Result<bool, Error> {
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
                let shape = shape.ok_or_else(|| wrong("not the shape of a record"))?;
                self.shapes.push(Rc::new(shape));
                continue;
            }
            let shape = self.shapes.get(shape as usize);
            let shape = shape.ok_or_else(|| wrong("a record of no known shape"))?;
            let read = line.read_binary(shape, body, number);
            read.ok_or_else(|| wrong("a record that is not of its shape"))?;
            return Ok(true);
        }
        Ok(false)
    }
}
