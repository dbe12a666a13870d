//! The kinds of value that a record's keys have.

mod text;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::line::{FromValue, Value};
use crate::records::Name;

pub use text::{Text, visible};

/// The bare text of a value, or that it is a string where none belongs.
pub(crate) fn bare<'v>(value: &'v Value<'_>) -> Result<Cow<'v, str>, String> {
    Ok(match value {
        Value::Bare(bare) => (*bare).into(),
        Value::Quoted(_) => return Err(format!("is a string: {value}")),
        Value::Number(number) => number.to_string().into(),
        Value::Signed(number) => number.to_string().into(),
        Value::Hex(number) => format!("{number:#x}").into(),
        Value::Id(id) => format!("{id:016x}").into(),
        Value::Flag(flag) => u8::from(*flag).to_string().into(),
        Value::EtherType(number) => EtherType(*number).to_string().into(),
        Value::Offset(raw, set) => Offset {
            raw: *raw,
            set: *set,
        }
        .to_string()
        .into(),
        Value::Numbered(prefix, number) => format!("{prefix}{number}").into(),
        Value::Names(bits, names) => Flags::named(*bits, names).to_string().into(),
        Value::Bytes(bytes) => Bytes(bytes.to_vec()).to_string().into(),
        Value::Numbers(numbers) => {
            let numbers = numbers.get().into_iter().flatten();
            let words: Vec<String> = numbers.map(|number| number.to_string()).collect();
            match words.is_empty() {
                true => "none".into(),
                false => words.join(",").into(),
            }
        }
        Value::Address(_) => return Err(format!("is a string: {value:?}")),
    })
}

/// A number as it stands in text.
fn parse_number<T: FromStr>(value: &Value<'_>, type_: &str) -> Result<T, String> {
    let text = bare(value)?;
    match text.parse() {
        Ok(number) if !text.starts_with('+') => Ok(number),
        _ => Err(format!("is not a {type_}: {value}")),
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl FromValue for $type {
            #[inline]
            fn from_value(value: &Value<'_>) -> Result<Self, String> {
                let number = match *value {
                    Value::Number(number) => number.try_into().ok(),
                    Value::Signed(number) => number.try_into().ok(),
                    _ => None,
                };
                match number {
                    Some(number) => Ok(number),
                    None => parse_number(value, stringify!($type)),
                }
            }
        }
    )*};
}
numbers!(u16, u32, u64, i32, i64);

impl FromValue for bool {
    #[inline]
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        if let Value::Flag(flag) = value {
            return Ok(*flag);
        }
        match &*bare(value)? {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(format!("is not a flag: {value}")),
        }
    }
}

/// Numbers with commas between.
impl FromValue for Vec<u32> {
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        if let Value::Numbers(numbers) = value {
            return Ok(numbers.get().into_iter().flatten().collect());
        }
        match &*bare(value)? {
            "none" => Ok(Self::new()),
            text => text
                .split(',')
                .map(|number| u32::from_value(&Value::Bare(number)))
                .collect(),
        }
    }
}

/// A word that has no fixed set of values, such as `perms`.
impl FromValue for String {
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        let text = bare(value)?;
        let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"_-,.:".contains(&byte);
        if text.is_empty() || !text.bytes().all(ok) {
            return Err(format!("is not a word: {value}"));
        }
        Ok(text.into_owned())
    }
}

/// Reads a type that has `FromStr` from a record.
macro_rules! from_text {
    ($type:ty $(, $binary:ident $of:expr)?) => {
        impl FromValue for $type {
            #[inline]
            fn from_value(value: &Value<'_>) -> Result<Self, String> {
                $( if let Value::$binary(number) = value {
                    return Ok($of(*number));
                } )?
                bare(value)?
                    .parse()
                    .map_err(|what: &str| format!("is not {what}: {value}"))
            }
        }
    };
}

/// The same, for a type that is a string in JSON.
macro_rules! as_text {
    ($type:ty $(, $binary:ident $of:expr)?) => {
        from_text!($type $(, $binary $of)?);

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse()
                    .map_err(|what| de::Error::custom(format!("not {what}: {text:?}")))
            }
        }
    };
}

/// Serializes a type as the string that `Display` writes.
macro_rules! shown {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
shown!(Hex, EtherType, Bytes);

/// Makes a type a number in JSON, and null where it has none.
macro_rules! or_null {
    ($type:ident, $none:ident, $some:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::$none => serializer.serialize_none(),
                    Self::$some(number) => serializer.serialize_u64(*number),
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = Option::deserialize(deserializer)?;
                Ok(number.map_or(Self::$none, Self::$some))
            }
        }
    };
}

/// A number that is negative where there is none: null in JSON.
pub(crate) mod negative_is_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(number: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(*number).ok().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        Option::deserialize(from).map(|number| number.unwrap_or(-1))
    }
}

/// The same of a field that may be absent.
pub(crate) mod optional_negative_is_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        number: &Option<i64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let number = number.and_then(|number| u64::try_from(number).ok());
        number.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
        Option::deserialize(from)
    }
}

/// Whether a terminal, a browser or a parser acts on a character rather than shows it: controls, marks that change the
/// direction or the order of the text, line and paragraph separators, tags, and what is no character at all.
pub fn is_active(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
        || u32::from(letter) & 0xfffe == 0xfffe
}

/// Hexadecimal digits of a value: `least` to `most` of them, lower case.
fn digits(text: &str, least: usize, most: usize) -> Option<u64> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !(least..=most).contains(&text.len()) || !text.bytes().all(lower) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// A kernel object's name: stands for its address without telling it. Prints as 16 hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl Id {
    /// No object.
    pub const NONE: Self = Self(0);

    /// Whether there is no object.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        digits(text, 16, 16).map(Self).ok_or("an id")
    }
}

from_text!(Id, Id Self);

/// No object is null in JSON.
impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Self::NONE),
            Some(text) => text
                .parse()
                .map_err(|what| de::Error::custom(format!("not {what}: {text:?}"))),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_none() {
            return serializer.serialize_none();
        }
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = [0; 16];
        for (at, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[((self.0 >> (60 - 4 * at)) & 15) as usize];
        }
        // There is nothing else in it.
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// An address in a process' own address space, or an offset in pages. Prints with `0x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for Hex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("0x")
            .and_then(|text| digits(text, 1, 16))
            .map(Self)
            .ok_or("hex")
    }
}

as_text!(Hex, Hex Self);

/// The protocol inside a link-layer frame, as an sk_buff names it. Prints as `0x0800`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// The usual name; none where the sk_buff names no protocol, or one that is rare.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x0001 => "802.3",
            0x0003 => "all",
            0x0004 => "802.2",
            0x0800 => "IPv4",
            0x0806 => "ARP",
            0x8100 => "802.1Q",
            0x86dd => "IPv6",
            0x8847 => "MPLS",
            0x8863 | 0x8864 => "PPPoE",
            0x888e => "EAPOL",
            0x88a8 => "802.1ad",
            0x88cc => "LLDP",
            0x88f7 => "PTP",
            _ => return None,
        })
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl FromStr for EtherType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").and_then(|text| digits(text, 1, 16));
        match digits.map(u16::try_from) {
            Some(Ok(value)) => Ok(Self(value)),
            _ => Err("an EtherType"),
        }
    }
}

as_text!(EtherType, EtherType Self);

/// Bytes of a packet. Prints as hexadecimal digits, two for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Bytes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let byte = |pair: &[u8]| {
            let byte = digits(std::str::from_utf8(pair).ok()?, 2, 2)?;
            u8::try_from(byte).ok()
        };
        let bytes = text.as_bytes().chunks(2).map(byte).collect::<Option<_>>();
        bytes.map(Self).ok_or("bytes in hexadecimal digits")
    }
}

as_text!(Bytes, Bytes |bytes: &[u8]| Self(bytes.to_vec()));

/// A header offset of an sk_buff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offset {
    /// Bytes from `head`, as the kernel keeps them; 65535 is its sentinel for unset.
    pub raw: u16,
    /// Whether a layer has set it.
    pub set: bool,
}

impl Offset {
    /// Bytes from `head`, where a layer has set them.
    pub fn get(self) -> Option<u16> {
        self.set.then_some(self.raw)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.raw, if self.set { "set" } else { "unset" })
    }
}

impl FromValue for Offset {
    #[inline]
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        if let Value::Offset(raw, set) = *value {
            return Ok(Self { raw, set });
        }
        let parse = |text: &str| {
            let (raw, mark) = text.split_once(':')?;
            let set = match mark {
                "set" => true,
                "unset" => false,
                _ => return None,
            };
            let raw = u16::from_value(&Value::Bare(raw)).ok()?;
            Some(Self { raw, set })
        };
        parse(&bare(value)?).ok_or_else(|| format!("is not an offset: {value}"))
    }
}

/// SO_LINGER: what close() does about bytes that are not yet sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Linger {
    /// close() returns at once, the kernel goes on sending.
    Off,
    /// close() waits so many seconds; with 0 it resets the connection.
    Seconds(u64),
}

impl fmt::Display for Linger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Seconds(seconds) => write!(f, "{seconds}"),
        }
    }
}

impl FromStr for Linger {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        u64::from_value(&Value::Bare(text))
            .map(Self::Seconds)
            .map_err(|_| "`off` or seconds")
    }
}

from_text!(Linger, Number Self::Seconds);
or_null!(Linger, Off, Seconds);

/// A timer: milliseconds until it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// It is not set.
    Off,
    /// It fires then.
    Ms(u64),
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::Ms(ms) => write!(f, "{ms}"),
        }
    }
}

impl FromStr for Timer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        u64::from_value(&Value::Bare(text))
            .map(Self::Ms)
            .map_err(|_| "`off` or milliseconds")
    }
}

from_text!(Timer, Number Self::Ms);
or_null!(Timer, Off, Ms);

/// Flags of a socket or an sk_buff: words, with commas between, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(Vec<String>);

impl Flags {
    /// Those of the bits that are set.
    fn named(bits: u64, names: &[Name]) -> Self {
        let set = names.iter().filter(|name| bits & name.value != 0);
        Self(set.map(|name| name.name.to_owned()).collect())
    }

    /// Whether a flag is set, by its word.
    pub fn has(&self, flag: &str) -> bool {
        self.0.iter().any(|set| set == flag)
    }

    /// The flags that are set.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.pad("none"),
            false => f.pad(&self.0.join(",")),
        }
    }
}

impl FromStr for Flags {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |word: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let ok = !word.is_empty() && word.bytes().all(plain);
            ok.then(|| word.to_owned())
        };
        match text {
            "none" => Ok(Self::default()),
            text => text
                .split(',')
                .map(word)
                .collect::<Option<_>>()
                .map(Self)
                .ok_or("flags"),
        }
    }
}

impl FromValue for Flags {
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        if let Value::Names(bits, names) = value {
            return Ok(Self::named(*bits, names));
        }
        let flags = bare(value)?.parse();
        flags.map_err(|what: &str| format!("is not {what}: {value}"))
    }
}

/// An array of strings in JSON.
impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromValue>(text: &str) -> Option<T> {
        T::from_value(&Value::Bare(text)).ok()
    }

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!(read("-1"), Some(-1i64));
        assert_eq!(read::<i64>("+1"), None);
        assert_eq!(read::<u64>("-1"), None);
        assert_eq!(read::<u64>(""), None);
        assert_eq!(read("18446744073709551615"), Some(u64::MAX));
        assert_eq!(read::<u64>("18446744073709551616"), None);
        assert_eq!(read::<bool>("2"), None);
    }

    #[test]
    fn ids_are_sixteen_digits() {
        assert_eq!(read("00000000000000ff"), Some(Id(255)));
        assert_eq!(Id(255).to_string(), "00000000000000ff");
        for text in [
            "ff",
            "00000000000000FF",
            "+0000000000000ff",
            "0x000000000000ff",
        ] {
            assert_eq!(read::<Id>(text), None, "{text}");
        }
    }

    #[test]
    fn hex_and_offsets() {
        assert_eq!(read("0x7f0000000000"), Some(Hex(0x7f00_0000_0000)));
        assert_eq!(read::<Hex>("7f"), None);
        assert_eq!(read::<Hex>("0x"), None);
        assert_eq!(read("0x0800"), Some(EtherType(0x0800)));
        assert_eq!(read::<EtherType>("0x10000"), None);
        let unset = Offset {
            raw: 65535,
            set: false,
        };
        assert_eq!(read("65535:unset"), Some(unset));
        assert_eq!(unset.get(), None);
        assert_eq!(read::<Offset>("65536:set"), None);
        assert_eq!(read::<Offset>("7:maybe"), None);
        assert_eq!(read::<Offset>("7"), None);
        assert_eq!(read("off"), Some(Linger::Off));
        assert_eq!(read("0"), Some(Linger::Seconds(0)));
        assert_eq!(read::<Linger>("on"), None);
        assert_eq!(read("off"), Some(Timer::Off));
        assert_eq!(read("200"), Some(Timer::Ms(200)));
        assert_eq!(read::<Timer>("-1"), None);
        let bytes: Bytes = read("00ff45").unwrap();
        assert_eq!((bytes.to_string().as_str(), bytes.0.len()), ("00ff45", 3));
        for text in ["0", "000", "0g", "FF"] {
            assert_eq!(read::<Bytes>(text), None, "{text}");
        }
        let flags: Flags = read("done,linger").unwrap();
        assert!(flags.has("linger") && !flags.has("dead"));
        assert_eq!(flags.to_string(), "done,linger");
        assert_eq!(read::<Flags>("none").unwrap().to_string(), "none");
        assert_eq!(read::<Flags>("done,"), None);
    }
}
