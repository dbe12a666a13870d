//! One line of a report: its kind and its `key=value` pairs.

use std::cell::Cell;
use std::fmt;

use crate::{Error, Text};

/// A value as it stands in a line, before anyone says what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, hex, id, word, flag or offset: everything up to the next space.
    Bare(&'a str),
    /// A string, without its quotes and escapes.
    Quoted(Text),
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
}

/// One record: a kind and its pairs, in the order of the text.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// The record's kind, the first word of the line.
    pub kind: &'a str,
    /// Place in the text, from 1, for messages.
    pub number: usize,
    fields: Vec<(&'a str, Value<'a>)>,
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
        let fail = |reason: String| Error::Parse {
            line: number,
            reason,
        };
        let (kind, mut rest) = split_word(text, b' ');
        let (kind, _) = word(kind).ok_or_else(|| fail("no kind at its start".into()))?;
        // A pair takes some sixteen bytes.
        let mut fields: Vec<(&str, Value<'_>)> = Vec::with_capacity(text.len() / 16 + 1);
        let mut seen = [0_u64; 4];
        while let Some(pair) = rest {
            let (key, value) = split_word(pair, b'=');
            let (key, hash) = word(key).ok_or_else(|| fail("a pair without a key".into()))?;
            let value = value.ok_or_else(|| fail(format!("`{key}` has no value")))?;
            // All of them are looked at only where one may be the same.
            let (bits, bit) = (&mut seen[usize::from(hash >> 6)], 1 << (hash & 63));
            if *bits & bit != 0 && fields.iter().any(|(known, _)| *known == key) {
                return Err(fail(format!("`{key}` is there twice")));
            }
            *bits |= bit;
            let (value, after) = if let Some(quoted) = value.strip_prefix(b"\"") {
                let (string, after) =
                    unquote(quoted).map_err(|reason| fail(format!("`{key}` {reason}")))?;
                (Value::Quoted(Text::from(string)), after)
            } else {
                let (bare, after) = split_word(value, b' ');
                let bare = std::str::from_utf8(bare)
                    .map_err(|_| fail(format!("`{key}` is not ASCII outside quotes")))?;
                (Value::Bare(bare), after)
            };
            fields.push((key, value));
            rest = after;
        }
        Ok(Self {
            kind,
            number,
            fields,
            next: Cell::new(0),
        })
    }

    /// A record of the binary form.
    pub(crate) fn of(kind: &'a str, number: usize, fields: Vec<(&'a str, Value<'a>)>) -> Self {
        Self {
            kind,
            number,
            fields,
            next: Cell::new(0),
        }
    }

    /// The value of a key, as it stands.
    pub fn value(&self, key: &str) -> Option<&Value<'a>> {
        let (before, behind) = self.fields.split_at(self.next.get());
        let found =
            |fields: &[(&str, Value<'_>)]| fields.iter().position(|(known, _)| *known == key);
        let place = match found(behind) {
            Some(place) => before.len() + place,
            None => found(before)?,
        };
        self.next.set(place + 1);
        Some(&self.fields[place].1)
    }

    /// All pairs, in the order of the text.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.fields.iter().map(|(key, value)| (*key, value))
    }

    /// The meaning of a key's value; the error names line and key.
    pub(crate) fn get<T: FromField>(&self, key: &str) -> Result<T, Error> {
        T::from_field(self.value(key))
            .map_err(|reason| self.error(format!("`{}`: `{key}` {reason}", self.kind)))
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
            Self::Quoted(text) => write!(f, "\"{text}\""),
            Self::Number(number) => write!(f, "`{number}`"),
            Self::Signed(number) => write!(f, "`{number}`"),
            Self::Hex(number) => write!(f, "`{number:#x}`"),
            Self::Id(id) => write!(f, "`{id:016x}`"),
            Self::Flag(flag) => write!(f, "`{}`", u8::from(*flag)),
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

/// A field's name as a key: what Rust has as a word of its own stands there as `r#NAME`.
pub(crate) const fn key(field: &str) -> &str {
    if let [b'r', b'#', name @ ..] = field.as_bytes() {
        if let Ok(name) = std::str::from_utf8(name) {
            return name;
        }
    }
    field
}

/// A string's bytes, and the next pair, from the text after its opening quote.
fn unquote(text: &[u8]) -> Result<(Vec<u8>, Option<&[u8]>), &'static str> {
    let mut string = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [] => return Err("has no closing quote"),
            [b'"'] => return Ok((string, None)),
            [b'"', b' ', after @ ..] => return Ok((string, Some(after))),
            [b'"', ..] => return Err("has text behind its closing quote"),
            [b'\\', b'x', high, low, after @ ..] => {
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                    return Err("has an escape that is not \\xNN");
                };
                string.push((high << 4) | low);
                rest = after;
            }
            [b'\\', byte @ (b'"' | b'\\'), after @ ..] => {
                string.push(*byte);
                rest = after;
            }
            [b'\\', ..] => return Err("has an unknown escape"),
            [byte, after @ ..] => {
                string.push(*byte);
                rest = after;
            }
        }
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
            pub(crate) fn from_line(line: &$crate::Line<'_>) -> Result<Self, $crate::Error> {
                Ok(Self {
                    $( $field: line.get(const { $crate::line::key(stringify!($field)) })?, )*
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
        assert_eq!(line.value("name"), Some(&Value::Quoted(Text::default())));
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
        assert_eq!(comm.as_bytes(), b"a \"b\\ c=d\n\xff");
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
