//! Strings of reports.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use super::is_active;
use crate::line::{FromValue, Value};
use crate::records::AddressText;

/// A string of the report: bytes, in no promised encoding.
///
/// Shown and serialized as UTF-8 with U+FFFD where it is not; [`Text::as_bytes`] has every byte. An empty one is null in
/// JSON.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(SmallVec<[u8; INLINE]>);

/// So many bytes need no memory of their own: an IPv4 address with its port, or a process' name.
const INLINE: usize = 24;

impl Text {
    /// Every byte of the string.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text as it may be shown: what is not UTF-8 is U+FFFD, and each character that [`is_active`] an escape such
    /// as `\u{1b}`.
    pub fn visible(&self) -> String {
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~');
        if self.as_bytes().iter().all(is_plain) {
            return self.to_string();
        }
        visible(&self.to_string())
    }

    /// The address and the port of an inet socket; none of others, and where the port is not known.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        std::str::from_utf8(self.as_bytes()).ok()?.parse().ok()
    }
}

/// A text as it may be shown: see [`Text::visible`].
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_active(letter) {
            true => shown.extend(letter.escape_default()),
            false => shown.push(letter),
        }
    }
    shown
}

impl Clone for Text {
    fn clone(&self) -> Self {
        // All at once: a SmallVec's own goes from byte to byte.
        self.as_bytes().into()
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl FromValue for Text {
    fn from_value(value: &Value<'_>) -> Result<Self, String> {
        match value {
            Value::Quoted(text) => Ok((&*text.bytes()).into()),
            Value::Address(address) => {
                let mut room = AddressText::default();
                Ok(address.text(&[], &mut room).into())
            }
            _ => Err(format!("is not a string: {value}")),
        }
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_empty() {
            true => serializer.serialize_none(),
            false => serializer.serialize_str(&String::from_utf8_lossy(&self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.unwrap_or_default().into_bytes().into())
    }
}
