//! One line of a report: its kind and its `key=value` pairs.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ptr;

use crate::Error;
use crate::records::{Address, Name, Numbers};
use crate::value::bare;

/// A value as it stands in a line, before anyone says what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, hex, id, word, flag or offset: everything up to the next space.
    Bare(&'a str),
    /// A string.
    Quoted(Quoted<'a>),
    /// A number, in the binary form.
    Number(u64),
    /// A number that may be negative, likewise.
    Signed(i64),
    /// What has `0x` before it in text, likewise.
    Hex(u64),
    /// An object's id, likewise.
    Id(u64),
    /// Yes or no, likewise.
    Flag(bool),
    /// An EtherType, likewise.
    EtherType(u16),
    /// A header offset of an sk_buff, and whether it is set, likewise.
    Offset(u16, bool),
    /// A prefix and a number, of what has no name, likewise.
    Numbered(&'static str, u64),
    /// Bits, and the names that they can have, likewise.
    Names(u64, &'static [Name]),
    /// Bytes of a packet, likewise.
    Bytes(&'a [u8]),
    /// Numbers, of which there is room for as many as it says, likewise.
    Numbers(&'a Numbers),
    /// An address that is no path, likewise.
    Address(&'a Address),
}

/// A string as it stands in a line, without its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    text: &'a [u8],
    /// Some of its bytes stand there as escapes, which are known to be ones that there are.
    escapes: bool,
}

/// One record: a kind and its pairs, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Line<'a> {
    /// The record's kind, the first word of the line.
    pub kind: &'a str,
    /// Place in the text, from 1, for messages.
    pub number: usize,
    keys: Vec<&'a str>,
    values: Vec<Value<'a>>,
    /// Behind the key that was asked for last: who reads a record asks for one after the other.
    next: Cell<usize>,
}

/// What can be made from a value.
pub(crate) trait FromValue: Sized {
    /// The value's meaning, or what is wrong with it.
    fn from_value(value: &Value<'_>) -> Result<Self, String>;
}

/// What can be made from a key that may be absent.
pub(crate) trait FromField: Sized {
    fn from_field(value: Option<&Value<'_>>) -> Result<Self, String>;
}

impl<T: FromValue> FromField for T {
    fn from_field(value: Option<&Value<'_>>) -> Result<Self, String> {
        T::from_value(value.ok_or("is missing")?)
    }
}

impl<T: FromValue> FromField for Option<T> {
    fn from_field(value: Option<&Value<'_>>) -> Result<Self, String> {
        value.map(T::from_value).transpose()
    }
}

impl<'a> Line<'a> {
    /// Parses one line, given without its newline.
    ///
    /// Fails with [`Error::Parse`] where the text is not a record: no kind, a pair without `=`, a
    /// key given twice, an open quote, an unknown escape.
    pub fn parse(text: &'a [u8], number: usize) -> Result<Self, Error> {
        let mut line = Self::default();
        line.read(text, number)?;
        Ok(line)
    }

    /// The same in the place of the line before, whose memory it takes over.
    pub(crate) fn read(&mut self, text: &'a [u8], number: usize) -> Result<(), Error> {
        let fail = |reason: String| Error::Parse {
            line: number,
            reason,
        };
        let (kind, mut rest) = split_word(text, b' ');
        let (kind, _) = word(kind).ok_or_else(|| fail("no kind at its start".into()))?;
        let Self { keys, values, .. } = self.restart(number);
        let mut seen = [0_u64; 4];
        while let Some(pair) = rest {
            let (key, value) = split_word(pair, b'=');
            let (key, hash) = word(key).ok_or_else(|| fail("a pair without a key".into()))?;
            let value = value.ok_or_else(|| fail(format!("`{key}` has no value")))?;
            // All of them are looked at only where one may be the same.
            let (bits, bit) = (&mut seen[usize::from(hash >> 6)], 1 << (hash & 63));
            if *bits & bit != 0 && keys.contains(&key) {
                return Err(fail(format!("`{key}` is there twice")));
            }
            *bits |= bit;
            let (value, after) = if let Some(quoted) = value.strip_prefix(b"\"") {
                let (string, after) =
                    Quoted::split(quoted).map_err(|reason| fail(format!("`{key}` {reason}")))?;
                (Value::Quoted(string), after)
            } else {
                let (bare, after) = split_word(value, b' ');
                let bare = std::str::from_utf8(bare)
                    .map_err(|_| fail(format!("`{key}` is not ASCII outside quotes")))?;
                (Value::Bare(bare), after)
            };
            keys.push(key);
            values.push(value);
            rest = after;
        }
        self.kind = kind;
        Ok(())
    }

    /// Begins another record in its place: it has no pairs yet.
    pub(crate) fn restart(&mut self, number: usize) -> &mut Self {
        self.number = number;
        self.keys.clear();
        self.values.clear();
        self.next.set(0);
        self
    }

    /// Adds a pair.
    #[inline(always)]
    pub(crate) fn push(&mut self, key: &'static str, value: Value<'a>) {
        self.keys.push(key);
        self.values.push(value);
    }

    /// The value of a key, as it stands.
    pub fn value(&self, key: &str) -> Option<&Value<'a>> {
        let (before, behind) = self.keys.split_at_checked(self.next.get())?;
        // Of the binary form, it is mostly the same string, not only an equal one.
        let same = |known: &&str| ptr::eq(*known, key) || *known == key;
        let found = |keys: &[&str]| keys.iter().position(same);
        let place = match found(behind) {
            Some(place) => before.len() + place,
            None => found(before)?,
        };
        self.next.set(place + 1);
        self.values.get(place)
    }

    /// All pairs, in the order of the text.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.keys.iter().copied().zip(&self.values)
    }

    /// The meaning of a key's value; the error names line and key.
    pub(crate) fn get<T: FromField>(&self, key: &str) -> Result<T, Error> {
        T::from_field(self.value(key)).map_err(|reason| self.wrong(key, &reason))
    }

    #[cold]
    fn wrong(&self, key: &str, reason: &str) -> Error {
        self.error(format!("`{}`: `{key}` {reason}", self.kind))
    }

    /// A parse error that names this line.
    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Parse {
            line: self.number,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare(bare) => write!(f, "`{bare}`"),
            Self::Quoted(text) => write!(f, "\"{}\"", String::from_utf8_lossy(&text.bytes())),
            Self::Number(number) => write!(f, "`{number}`"),
            Self::Signed(number) => write!(f, "`{number}`"),
            Self::Hex(number) => write!(f, "`{number:#x}`"),
            Self::Id(id) => write!(f, "`{id:016x}`"),
            Self::Flag(flag) => write!(f, "`{}`", u8::from(*flag)),
            Self::EtherType(number) => write!(f, "`{number:#06x}`"),
            Self::Offset(raw, set) => write!(f, "`{raw}:{}`", if *set { "set" } else { "unset" }),
            other => match bare(other) {
                Ok(text) => write!(f, "`{text}`"),
                Err(_) => write!(f, "{other:?}"),
            },
        }
    }
}

/// The text before the first `at`, and what comes after it, if it is there.
fn split_word(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == at) {
        Some(place) => (&text[..place], Some(&text[place + 1..])),
        None => (text, None),
    }
}

/// A kind or a key, and what is seldom the same of two: not empty, and nothing that a value could be taken for.
fn word(text: &[u8]) -> Option<(&str, u8)> {
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let mut hash = 0_u8;
    for byte in text {
        if !ok(*byte) {
            return None;
        }
        hash = hash.wrapping_mul(31).wrapping_add(*byte);
    }
    let text = std::str::from_utf8(text).ok()?;
    (!text.is_empty()).then_some((text, hash))
}

impl<'a> Quoted<'a> {
    /// Of the binary form, which has no escapes.
    pub(crate) fn plain(text: &'a [u8]) -> Self {
        Self {
            text,
            escapes: false,
        }
    }

    /// Splits the text behind an opening quote: the string, and the next pair.
    fn split(text: &'a [u8]) -> Result<(Self, Option<&'a [u8]>), &'static str> {
        let mut at = 0;
        let mut escapes = false;
        loop {
            let rest = &text[at..];
            let special = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            at += special.ok_or("has no closing quote")?;
            match &text[at..] {
                [b'"', after @ ..] => {
                    let text = &text[..at];
                    return match after {
                        [] => Ok((Self { text, escapes }, None)),
                        [b' ', after @ ..] => Ok((Self { text, escapes }, Some(after))),
                        _ => Err("has text behind its closing quote"),
                    };
                }
                rest => {
                    let (_, len) = escape(rest)?;
                    escapes = true;
                    at += len;
                }
            }
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        if !self.escapes {
            return Cow::Borrowed(self.text);
        }
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text;
        while let Some(first) = rest.first() {
            // Those that are none were found when it was split.
            let (byte, len) = match first {
                b'\\' => escape(rest).unwrap_or((*first, 1)),
                _ => (*first, 1),
            };
            bytes.push(byte);
            rest = &rest[len..];
        }
        Cow::Owned(bytes)
    }
}

/// The byte that an escape stands for, and how many it has itself.
fn escape(text: &[u8]) -> Result<(u8, usize), &'static str> {
    match text {
        [b'\\', b'x', high, low, ..] => match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => Ok(((high << 4) | low, 4)),
            _ => Err("has an escape that is not \\xNN"),
        },
        [b'\\', byte @ (b'"' | b'\\'), ..] => Ok((*byte, 2)),
        _ => Err("has an unknown escape"),
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// A struct for one kind of record, and how it is read from a line: every field is the key of the
/// same name, those under `plus` begin empty and are filled from the records that follow.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident {
            $( $(#[$field_meta:meta])* $field:ident: $type:ty, )*
        }
        $( plus { $( $(#[$plus_meta:meta])* $plus:ident: $plus_type:ty, )* } )?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
            $( $( $(#[$plus_meta])* pub $plus: $plus_type, )* )?
        }

        impl $name {
            // Of a type without fields, the line does not matter.
            #[allow(unused_variables)]
            pub(crate) fn from_line(line: &$crate::Line<'_>) -> Result<Self, $crate::Error> {
                Ok(Self {
                    $( $field: line.get(const { $crate::records::key(stringify!($field)) })?, )*
                    $( $( $plus: Default::default(), )* )?
                })
            }
        }
    };
}
pub(crate) use record;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Line<'_>, String> {
        Line::parse(text.as_bytes(), 3).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_and_pairs() {
        let line = parse(r#"vma start=0x1 perms=rw-p name="" x-y=a:b"#).unwrap();
        assert_eq!(line.kind, "vma");
        assert_eq!(line.value("start"), Some(&Value::Bare("0x1")));
        let empty = Value::Quoted(Quoted::plain(b""));
        assert_eq!(line.value("name"), Some(&empty));
        assert_eq!(line.value("x-y"), Some(&Value::Bare("a:b")));
        assert_eq!(line.value("y"), None);
        assert_eq!(line.fields().count(), 4);
        assert_eq!(parse("summary").unwrap().fields().count(), 0);
    }

    #[test]
    fn quotes_survive() {
        let line = parse(r#"c comm="a \"b\\ c=d\x0a\xff" pid=1"#).unwrap();
        let Some(Value::Quoted(comm)) = line.value("comm") else {
            panic!("{line:?}");
        };
        assert_eq!(&*comm.bytes(), b"a \"b\\ c=d\n\xff");
        assert_eq!(line.value("pid"), Some(&Value::Bare("1")));
    }

    #[test]
    fn what_is_not_a_record_is_named() {
        for (text, reason) in [
            ("", "no kind"),
            (" a=1", "no kind"),
            ("a=1", "no kind"),
            ("k a", "`a` has no value"),
            ("k =1", "a pair without a key"),
            ("k a=1  b=2", "a pair without a key"),
            ("k a=1 ", "a pair without a key"),
            ("k a=1 a=2", "`a` is there twice"),
            ("k a=\"", "no closing quote"),
            ("k a=\"\\\"", "no closing quote"),
            ("k a=\"\"b=1", "text behind"),
            ("k a=\"\\n\"", "unknown escape"),
            ("k a=\"\\x4\"", "not \\xNN"),
            ("k a=\"\\xg0\"", "not \\xNN"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(error.contains("line 3"), "{error}");
        }
    }
}
