// SPDX-License-Identifier: GPL-2.0

//! The records, each of them defined once.
//!
//! The module and the tools compile this file. It needs nothing but `core`. A definition gives the
//! layout of a record in the binary form, its text, and the description from which documentation
//! and JSON Schema are generated:
//!
//! - [`record!`](define) defines a record: its number, its name in text, and its fields;
//! - [`part!`](define) defines fields that several records have, or that a record has only
//!   together;
//! - [`enumeration!`](define) and [`bits!`](define) define numbers and sets of bits that have
//!   names.
//!
//! All types of fields are made of bytes and have a size that is a multiple of eight: a record has
//! no padding, no alignment, and the same layout on every machine.

#![deny(unsafe_code)]
// The module needs some of this, the tools all of it. In neither is all of it public.
#![allow(dead_code, unreachable_pub)]

#[macro_use]
#[path = "records/define.rs"]
mod define;
#[path = "records/types.rs"]
mod types;

#[path = "records/common.rs"]
pub mod common;
#[path = "records/events.rs"]
pub mod events;
#[path = "records/memory.rs"]
pub mod memory;
#[path = "records/process.rs"]
pub mod process;
#[path = "records/skbs.rs"]
pub mod skbs;
#[path = "records/sockets.rs"]
pub mod sockets;
#[path = "records/waiters.rs"]
pub mod waiters;

pub use types::*;

/// The bytes that strings of a record lie in, in pieces that follow each other.
pub type Tail<'t, 'r> = &'t [&'r [u8]];

/// A record.
///
/// Only `record!` implements it: for structures that consist of bytes, in the order of their
/// definition.
pub trait Record: Sized {
    /// What the definition says.
    const INFO: Info;
    /// The most bytes that it has as text, its strings not counted.
    const MOST: usize;

    /// Writes its fields.
    fn write<'r, S: Sink<'r>>(&'r self, tail: Tail<'_, 'r>, sink: &mut S);
}

/// A field's type.
pub trait Field {
    /// Its description.
    const TYPE: Type;
    /// Whether a record may lack it.
    const OPTIONAL: bool = false;
    /// The most bytes that it has as text, with its key: strings are not counted.
    const MOST: usize;

    /// Writes it under its key.
    fn write<'r, S: Sink<'r>>(&'r self, key: Key, tail: Tail<'_, 'r>, sink: &mut S);
}

/// A field's key in text.
pub type Key = &'static str;

/// What a record's fields are written to.
pub trait Sink<'r> {
    /// A number that is not negative.
    fn number(&mut self, key: Key, number: u64);
    /// A number that may be negative.
    fn signed(&mut self, key: Key, number: i64);
    /// An address, an offset in pages, or bits.
    fn hex(&mut self, key: Key, number: u64);
    /// An EtherType.
    fn ether_type(&mut self, key: Key, number: u16);
    /// An object's id.
    fn id(&mut self, key: Key, id: u64);
    /// Yes or no.
    fn flag(&mut self, key: Key, flag: bool);
    /// A header offset of an sk_buff, and whether it is set.
    fn offset(&mut self, key: Key, raw: u16, set: bool);
    /// A word, which needs no quotes.
    fn word(&mut self, key: Key, word: &'r [u8]);
    /// A word that consists of a prefix and a number: a value that has no name.
    fn numbered(&mut self, key: Key, prefix: &'static str, number: u64);
    /// The names of the bits that are set, with commas between; `none` if there are none.
    fn bits(&mut self, key: Key, bits: u64, names: &'static [Name]);
    /// Bytes, in quotes.
    fn string(&mut self, key: Key, bytes: &'r [u8]);
    /// Bytes, as hexadecimal digits.
    fn bytes(&mut self, key: Key, bytes: &'r [u8]);
    /// Numbers with commas between; `none` if there are none.
    fn numbers(&mut self, key: Key, numbers: &'r Numbers);
    /// An address, in quotes. A path lies in `tail`.
    fn address(&mut self, key: Key, address: &'r Address, tail: Tail<'_, 'r>);
    /// What is there is no value of the field's type.
    fn wrong(&mut self, key: Key);
}

/// What a definition says of a record.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Its number in the binary form.
    pub kind: u16,
    /// Its name in text.
    pub name: &'static str,
    /// Bytes of its structure.
    pub size: usize,
    /// What it stands for.
    pub doc: &'static str,
    /// Its fields.
    pub fields: &'static [FieldInfo],
}

/// What a definition says of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Its key in text.
    pub key: Key,
    /// Its type.
    pub type_: Type,
    /// Whether a record may lack it.
    pub optional: bool,
    /// Bytes before it in the structure.
    pub offset: usize,
    /// Its unit, if it has one.
    pub unit: &'static str,
    /// The version of the format that introduced it.
    pub since: u16,
    /// What it means.
    pub doc: &'static str,
}

/// A value that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The value, or the bit.
    pub value: u64,
    /// Its name.
    pub name: &'static str,
    /// What it means; may be empty.
    pub doc: &'static str,
}

/// The type of a field.
// An EtherType is no kind of type.
#[allow(clippy::enum_variant_names)]
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// [`Number`].
    Number,
    /// [`Signed`].
    Signed,
    /// [`Hex`].
    Hex,
    /// [`EtherType`].
    EtherType,
    /// [`Id`].
    Id,
    /// [`Flag`].
    Flag,
    /// [`OrOff`].
    OrOff,
    /// [`Offset`].
    Offset,
    /// [`Short`].
    Short,
    /// [`Comm`].
    Comm,
    /// [`Str`].
    String,
    /// [`Word`].
    Word,
    /// [`Bytes`].
    Bytes,
    /// [`Numbers`].
    Numbers,
    /// [`Address`].
    Address,
    /// [`Reason`].
    Reason,
    /// A number that has a name: the names, and the prefix of a number that has none.
    Enumeration(&'static [Name], &'static str),
    /// A set of bits that have names.
    Bits(&'static [Name]),
    /// Further fields, at their offsets from this one.
    Part(&'static [FieldInfo]),
}

/// All records.
pub const ALL: [&[Info]; 7] = [
    common::RECORDS,
    memory::RECORDS,
    process::RECORDS,
    sockets::RECORDS,
    skbs::RECORDS,
    waiters::RECORDS,
    events::RECORDS,
];

/// The first bytes of the binary form. The last of them is the version of its frames.
pub const MAGIC: [u8; 8] = *b"\x7fravel\x00\x03";

/// A hash of all definitions: equal if and only if records have the same layout and meaning.
/// FNV-1a.
pub const SCHEMA: u64 = {
    let mut hash = Fnv::new();
    let mut group = 0;
    while group < ALL.len() {
        let mut at = 0;
        while at < ALL[group].len() {
            let info = &ALL[group][at];
            hash = hash.number(info.kind as u64).text(info.name);
            hash = hash.number(info.size as u64).fields(info.fields);
            at += 1;
        }
        group += 1;
    }
    hash.0
};

/// Bytes before the first record of the binary form: the magic, and [`SCHEMA`].
pub const PREFIX: usize = 16;

/// What the binary form begins with.
pub const fn prefix() -> [u8; PREFIX] {
    let (magic, schema) = (MAGIC, SCHEMA.to_le_bytes());
    let mut all = [0; PREFIX];
    let mut at = 0;
    while at < 8 {
        all[at] = magic[at];
        all[at + 8] = schema[at];
        at += 1;
    }
    all
}

/// Bytes of a record's header.
pub const HEADER: usize = 8;

/// A record's header: its number, the bytes of its structure, and those of all of it, with the
/// header.
pub const fn header(kind: u16, size: u16, len: u32) -> [u8; HEADER] {
    let (kind, size, len) = (kind.to_le_bytes(), size.to_le_bytes(), len.to_le_bytes());
    [
        kind[0], kind[1], size[0], size[1], len[0], len[1], len[2], len[3],
    ]
}

/// The hash of some bytes.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    const fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(0x100_0000_01b3))
    }

    const fn number(mut self, number: u64) -> Self {
        let bytes = number.to_le_bytes();
        let mut at = 0;
        while at < bytes.len() {
            self = self.byte(bytes[at]);
            at += 1;
        }
        self
    }

    const fn text(mut self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            self = self.byte(bytes[at]);
            at += 1;
        }
        self.byte(0)
    }

    const fn fields(mut self, fields: &[FieldInfo]) -> Self {
        let mut at = 0;
        while at < fields.len() {
            let field = &fields[at];
            self = self.text(field.key).number(field.offset as u64);
            self = self
                .byte(field.optional as u8)
                .text(field.unit)
                .type_(&field.type_);
            at += 1;
        }
        self
    }

    const fn names(mut self, names: &[Name]) -> Self {
        let mut at = 0;
        while at < names.len() {
            self = self.number(names[at].value).text(names[at].name);
            at += 1;
        }
        self
    }

    const fn type_(self, type_: &Type) -> Self {
        match type_ {
            Type::Number => self.byte(1),
            Type::Signed => self.byte(2),
            Type::Hex => self.byte(3),
            Type::EtherType => self.byte(4),
            Type::Id => self.byte(5),
            Type::Flag => self.byte(6),
            Type::OrOff => self.byte(7),
            Type::Offset => self.byte(8),
            Type::Short => self.byte(9),
            Type::Comm => self.byte(10),
            Type::String => self.byte(11),
            Type::Word => self.byte(12),
            Type::Bytes => self.byte(13),
            Type::Numbers => self.byte(14),
            Type::Address => self.byte(15),
            Type::Reason => self.byte(19),
            Type::Enumeration(names, prefix) => self.byte(16).names(names).text(prefix),
            Type::Bits(names) => self.byte(17).names(names),
            Type::Part(fields) => self.byte(18).fields(fields),
        }
    }
}

/// A field's name as a key: what Rust has as a word of its own stands there as `r#NAME`.
pub const fn key(field: &'static str) -> Key {
    if let [b'r', b'#', name @ ..] = field.as_bytes() {
        if let Ok(name) = core::str::from_utf8(name) {
            return name;
        }
    }
    field
}
