// SPDX-License-Identifier: GPL-2.0

//! The types that fields have.

use super::{Field, Key, Sink, Tail, Type};
use core::{
    fmt::{self, Write},
    net::{Ipv6Addr, SocketAddrV6},
};

/// A type of eight bytes.
macro_rules! eight {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident($number:ty) from $($from:ty)*;
    )*) => {$(
        $(#[doc = $doc])+
        #[repr(transparent)]
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        #[cfg_attr(
            not(MODULE),
            derive(
                Debug,
                zerocopy::FromBytes,
                zerocopy::Immutable,
                zerocopy::KnownLayout,
                zerocopy::Unaligned
            )
        )]
        pub struct $name([u8; 8]);

        impl $name {
            /// A value.
            #[inline(always)]
            pub const fn new(number: $number) -> Self {
                Self(number.to_le_bytes())
            }

            /// The value.
            #[inline(always)]
            pub const fn get(self) -> $number {
                <$number>::from_le_bytes(self.0)
            }
        }

        $( impl From<$from> for $name {
            // There is no `From` for `usize`.
            #[allow(clippy::cast_lossless)]
            #[inline(always)]
            fn from(number: $from) -> Self {
                Self::new(number as $number)
            }
        } )*
    )*};
}

eight! {
    /// A number that is not negative.
    Number(u64) from u64 u32 u16 u8 usize;
    /// A number that may be negative.
    Signed(i64) from i64 i32 u32;
    /// An address, an offset in pages, or bits: in text `0x` and hexadecimal digits.
    Hex(u64) from u64 u32 usize;
    /// An EtherType: in text `0x` and four hexadecimal digits.
    EtherType(u64) from u16;
    /// An object's id: in text 16 hexadecimal digits.
    Id(u64) from u64;
    /// Yes or no.
    Flag(u64) from bool;
    /// A number, or `off`, which is -1.
    OrOff(i64) from i64 u64;
    /// A header offset of an sk_buff: bytes from `head`, and in bit 16 whether it is set.
    Offset(u64) from ;
    /// A word of at most eight letters.
    Short(u64) from ;
    /// A string: where it begins in the bytes behind the record's structure, and its length.
    Str(u64) from ;
    /// The same, for a word, which needs no quotes in text.
    Word(u64) from ;
    /// The same, for bytes: in text two hexadecimal digits each.
    Bytes(u64) from ;
    /// Why something happened: the place of a word, `none` where it is empty; or a number that has
    /// no name.
    Reason(u64) from ;
}

impl From<Option<i64>> for OrOff {
    fn from(number: Option<i64>) -> Self {
        Self::new(number.filter(|number| *number >= 0).unwrap_or(-1))
    }
}

impl Offset {
    /// An offset, and whether it is set.
    #[inline(always)]
    pub const fn of(raw: u16, set: bool) -> Self {
        Self::new(raw as u64 | ((set as u64) << 16))
    }
}

impl Short {
    /// A word: its first eight letters.
    #[inline(always)]
    pub fn of(word: &[u8]) -> Self {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(word) {
            *to = *from;
        }
        Self(bytes)
    }
}

/// A place in the bytes behind a record's structure.
macro_rules! places {
    ($($name:ident)*) => {$(
        impl $name {
            /// The place of so many bytes, of which `at` are before it.
            #[inline(always)]
            pub const fn at(at: usize, len: usize) -> Self {
                Self::new(at as u64 | (len as u64) << 32)
            }

            /// What is there.
            #[inline(always)]
            fn find<'r>(&self, tail: Tail<'_, 'r>) -> Option<&'r [u8]> {
                find(self.get(), tail)
            }
        }
    )*};
}
places!(Str Word Bytes);

/// What is at a place.
#[inline]
fn find<'r>(place: u64, tail: Tail<'_, 'r>) -> Option<&'r [u8]> {
    let (mut at, len) = (place as u32 as usize, (place >> 32) as usize);
    if len == 0 {
        return Some(&[]);
    }
    for piece in tail {
        if at < piece.len() {
            return piece.get(at..)?.get(..len);
        }
        at -= piece.len();
    }
    None
}

impl Reason {
    /// The length of none that there is.
    const NUMBER: u64 = u32::MAX as u64;

    /// None.
    pub const NONE: Self = Self::new(0);

    /// One that has no name.
    pub const fn number(number: u32) -> Self {
        Self::new(number as u64 | (Self::NUMBER << 32))
    }

    /// The place of its name, as of a [`Word`].
    pub const fn at(at: usize, len: usize) -> Self {
        Self::new(Word::at(at, len).get())
    }
}

/// A name of at most 16 bytes, such as a task's: it ends before the first 0.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    not(MODULE),
    derive(
        Debug,
        zerocopy::FromBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout,
        zerocopy::Unaligned
    )
)]
pub struct Comm([u8; 16]);

impl Comm {
    /// A name: its first 16 bytes.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = *from;
        }
        Self(bytes)
    }

    /// A name that a 0 ends.
    #[inline(always)]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn get(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        &self.0[..end.unwrap_or(16)]
    }
}

/// How many numbers [`Numbers`] has room for.
pub const NUMBERS: usize = 8;

/// A few numbers.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    not(MODULE),
    derive(
        Debug,
        zerocopy::FromBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout,
        zerocopy::Unaligned
    )
)]
pub struct Numbers {
    count: Number,
    numbers: [[u8; 4]; NUMBERS],
}

impl Numbers {
    /// The first of these, as many as there is room for.
    #[inline]
    pub fn of(numbers: &[u32]) -> Self {
        let mut all = Self::default();
        for (to, from) in all.numbers.iter_mut().zip(numbers) {
            *to = from.to_le_bytes();
        }
        all.count = Number::new(numbers.len().min(NUMBERS) as u64);
        all
    }

    /// The numbers; none if there is no room for as many as it says.
    pub fn get(&self) -> Option<impl Iterator<Item = u32> + '_> {
        let count = usize::try_from(self.count.get()).ok()?;
        let numbers = self.numbers.get(..count)?;
        Some(numbers.iter().map(|number| u32::from_le_bytes(*number)))
    }
}

/// An address: of a socket, or of a packet's sender or receiver.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    not(MODULE),
    derive(
        Debug,
        zerocopy::FromBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout,
        zerocopy::Unaligned
    )
)]
pub struct Address {
    /// The form of the address, and its port in the upper half.
    form: [u8; 8],
    bytes: [u8; 16],
}

/// The longest address, its port and its brackets.
const ADDRESS_MOST: usize = 64;

impl Address {
    const NONE: u32 = 0;
    const IPV4: u32 = 1;
    const IPV4_PORT: u32 = 2;
    const IPV6: u32 = 3;
    const IPV6_PORT: u32 = 4;
    const PATH: u32 = 5;
    const NETLINK: u32 = 6;
    const VSOCK: u32 = 7;
    const VSOCK_ANY: u32 = 8;
    const PACKET: u32 = 9;

    const fn with(form: u32, port: u32, bytes: [u8; 16]) -> Self {
        let form = form as u64 | ((port as u64) << 32);
        Self {
            form: form.to_le_bytes(),
            bytes,
        }
    }

    const fn with_number(form: u32, port: u32, number: u64) -> Self {
        let mut bytes = [0; 16];
        let number = number.to_le_bytes();
        let mut at = 0;
        while at < 8 {
            bytes[at] = number[at];
            at += 1;
        }
        Self::with(form, port, bytes)
    }

    /// An IPv4 address in network order, in the first four bytes; with a port, if there are ports.
    #[inline]
    pub fn ipv4(bytes: &[u8; 16], port: Option<u16>) -> Self {
        let mut first = [0; 16];
        first[..4].copy_from_slice(&bytes[..4]);
        match port {
            Some(port) => Self::with(Self::IPV4_PORT, port.into(), first),
            None => Self::with(Self::IPV4, 0, first),
        }
    }

    /// An IPv6 address in network order; with a port, if there are ports.
    #[inline]
    pub fn ipv6(bytes: &[u8; 16], port: Option<u16>) -> Self {
        match port {
            Some(port) => Self::with(Self::IPV6_PORT, port.into(), *bytes),
            None => Self::with(Self::IPV6, 0, *bytes),
        }
    }

    /// A unix path: its place in the record's strings.
    pub const fn path(place: Str) -> Self {
        Self::with_number(Self::PATH, 0, place.get())
    }

    /// A port of netlink; 0 is none.
    pub const fn netlink(port: u32) -> Self {
        match port {
            0 => Self::with(Self::NONE, 0, [0; 16]),
            port => Self::with(Self::NETLINK, port, [0; 16]),
        }
    }

    /// An address of vsock, of any context if that is none.
    pub const fn vsock(cid: Option<u32>, port: u32) -> Self {
        match cid {
            Some(cid) => Self::with_number(Self::VSOCK, port, cid as u64),
            None => Self::with(Self::VSOCK_ANY, port, [0; 16]),
        }
    }

    /// What a packet socket is bound to: an EtherType, and a device's index.
    pub const fn packet(protocol: u16, device: i32) -> Self {
        Self::with_number(Self::PACKET, protocol as u32, device as u32 as u64)
    }

    fn form(&self) -> u32 {
        u64::from_le_bytes(self.form) as u32
    }

    fn port(&self) -> u32 {
        (u64::from_le_bytes(self.form) >> 32) as u32
    }

    fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether it is one of the forms that there are.
    pub fn is_valid(&self) -> bool {
        let (form, port) = (self.form(), self.port());
        match form {
            Self::IPV4 | Self::IPV6 => port == 0,
            Self::IPV4_PORT | Self::IPV6_PORT | Self::PACKET => port <= 0xffff,
            _ => form <= Self::PACKET,
        }
    }

    /// Its text without quotes. The room is for one that is no path.
    pub fn text<'t>(&self, tail: Tail<'_, 't>, room: &'t mut AddressText) -> &'t [u8] {
        let port = self.port();
        let written = match self.form() {
            Self::IPV4 => return room.ipv4(self, None),
            Self::IPV4_PORT => return room.ipv4(self, Some(port)),
            Self::IPV6 => write!(room, "{}", Ipv6Addr::from(self.bytes)),
            Self::IPV6_PORT => {
                let address = Ipv6Addr::from(self.bytes);
                write!(room, "{}", SocketAddrV6::new(address, port as u16, 0, 0))
            }
            Self::PATH => return find(self.number(), tail).unwrap_or_default(),
            Self::NETLINK => write!(room, "{port}"),
            Self::VSOCK => write!(room, "{}:{port}", self.number() as u32),
            Self::VSOCK_ANY => write!(room, "*:{port}"),
            Self::PACKET => write!(room, "{port:#06x}:{}", self.number() as i32),
            _ => Ok(()),
        };
        match written {
            Ok(()) => room.bytes(),
            Err(_) => b"",
        }
    }

    /// The path that it is, which may need escapes; none if it is no path, and of one, if it is not
    /// there.
    pub fn path_in<'r>(&self, tail: Tail<'_, 'r>) -> Option<Option<&'r [u8]>> {
        (self.form() == Self::PATH).then(|| find(self.number(), tail))
    }
}

/// Room for the text of an address.
pub struct AddressText {
    text: [u8; ADDRESS_MOST],
    len: usize,
}

impl Default for AddressText {
    fn default() -> Self {
        Self {
            text: [0; ADDRESS_MOST],
            len: 0,
        }
    }
}

impl AddressText {
    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }

    #[inline(always)]
    fn push(&mut self, byte: u8) {
        if let Some(to) = self.text.get_mut(self.len) {
            *to = byte;
            self.len += 1;
        }
    }

    #[inline]
    fn number(&mut self, number: u32) {
        for unit in [10000, 1000, 100, 10] {
            if number >= unit {
                self.push(b'0' + (number / unit % 10) as u8);
            }
        }
        self.push(b'0' + (number % 10) as u8);
    }

    /// Sockets have two each, and to format them would take longer than all else of a socket.
    fn ipv4(&mut self, address: &Address, port: Option<u32>) -> &[u8] {
        let [a, b, c, d, ..] = address.bytes;
        self.number(a.into());
        for byte in [b, c, d] {
            self.push(b'.');
            self.number(byte.into());
        }
        if let Some(port) = port {
            self.push(b':');
            self.number(port & 0xffff);
        }
        self.bytes()
    }
}

impl Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.text.get_mut(self.len..).unwrap_or_default();
        let free = free.get_mut(..text.len()).ok_or(fmt::Error)?;
        free.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// A value, or none. Of a part: all of its fields, or none of them.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    not(MODULE),
    derive(
        Debug,
        zerocopy::FromBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout,
        zerocopy::Unaligned
    )
)]
pub struct Maybe<T> {
    there: Flag,
    value: T,
}

impl<T: Copy + Default> Maybe<T> {
    /// A value.
    #[inline(always)]
    pub fn some(value: T) -> Self {
        Self {
            there: true.into(),
            value,
        }
    }

    /// There is one: returns its place, to be filled.
    #[inline(always)]
    pub fn there(&mut self) -> &mut T {
        self.there = true.into();
        &mut self.value
    }

    /// There is none. Nothing stays of one that was there.
    #[inline(always)]
    pub fn clear(&mut self) {
        if self.there.get() != 0 {
            *self = Self::default();
        }
    }
}

impl<T: Copy + Default> From<Option<T>> for Maybe<T> {
    #[inline(always)]
    fn from(value: Option<T>) -> Self {
        value.map_or_else(Self::default, Self::some)
    }
}

impl<T: Field> Field for Maybe<T> {
    const TYPE: Type = T::TYPE;
    const OPTIONAL: bool = true;
    const MOST: usize = T::MOST;

    #[inline(always)]
    fn write<'r, S: Sink<'r>>(&'r self, key: Key, tail: Tail<'_, 'r>, sink: &mut S) {
        match self.there.get() {
            0 => {}
            1 => self.value.write(key, tail, sink),
            _ => sink.wrong(key),
        }
    }
}

/// Implements [`Field`].
macro_rules! field {
    ($($name:ident $most:literal |$value:pat_param, $key:ident, $tail:pat_param, $sink:ident| $write:expr;)*) => {$(
        impl Field for $name {
            const TYPE: Type = Type::$name;
            const MOST: usize = $most;

            #[inline(always)]
            fn write<'r, S: Sink<'r>>(&'r self, $key: Key, $tail: Tail<'_, 'r>, $sink: &mut S) {
                let $value = self;
                $write
            }
        }
    )*};
}

field! {
    Number 20 |value, key, _, sink| sink.number(key, value.get());
    Signed 20 |value, key, _, sink| sink.signed(key, value.get());
    Hex 18 |value, key, _, sink| sink.hex(key, value.get());
    EtherType 6 |value, key, _, sink| match value.get() {
        number @ 0..=0xffff => sink.ether_type(key, number as u16),
        _ => sink.wrong(key),
    };
    Id 16 |value, key, _, sink| sink.id(key, value.get());
    Flag 1 |value, key, _, sink| match value.get() {
        0 => sink.flag(key, false),
        1 => sink.flag(key, true),
        _ => sink.wrong(key),
    };
    OrOff 20 |value, key, _, sink| match value.get() {
        -1 => sink.word(key, b"off"),
        number @ 0.. => sink.number(key, number as u64),
        _ => sink.wrong(key),
    };
    Offset 11 |value, key, _, sink| match value.get() {
        raw @ 0..=0xffff => sink.offset(key, raw as u16, false),
        raw @ 0x1_0000..=0x1_ffff => sink.offset(key, raw as u16, true),
        _ => sink.wrong(key),
    };
    Short 8 |value, key, _, sink| {
        let end = value.0.iter().position(|byte| *byte == 0);
        sink.word(key, &value.0[..end.unwrap_or(8)]);
    };
    Comm 66 |value, key, _, sink| sink.string(key, value.get());
    Word 0 |value, key, tail, sink| match value.find(tail) {
        Some(word) => sink.word(key, word),
        None => sink.wrong(key),
    };
    Bytes 0 |value, key, tail, sink| match value.find(tail) {
        Some(bytes) => sink.bytes(key, bytes),
        None => sink.wrong(key),
    };
    Numbers 88 |value, key, _, sink| sink.numbers(key, value);
    Address 66 |value, key, tail, sink| sink.address(key, value, tail);
}

impl Field for Str {
    const TYPE: Type = Type::String;
    const MOST: usize = 2;

    #[inline(always)]
    fn write<'r, S: Sink<'r>>(&'r self, key: Key, tail: Tail<'_, 'r>, sink: &mut S) {
        match self.find(tail) {
            Some(bytes) => sink.string(key, bytes),
            None => sink.wrong(key),
        }
    }
}

impl Field for Reason {
    const TYPE: Type = Type::Reason;
    const MOST: usize = 17;

    #[inline(always)]
    fn write<'r, S: Sink<'r>>(&'r self, key: Key, tail: Tail<'_, 'r>, sink: &mut S) {
        let place = self.get();
        match place >> 32 {
            0 => sink.word(key, b"none"),
            Self::NUMBER => sink.numbered(key, "reason_", place & Self::NUMBER),
            _ => match find(place, tail) {
                Some(word) => sink.word(key, word),
                None => sink.wrong(key),
            },
        }
    }
}

/// What became of the bytes of a record.
#[cfg(not(MODULE))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// They are the record of that name.
    Record(&'static str),
    /// They are too few for that record.
    Short,
}
