//! JSON that is safe to print on a terminal and to embed in other documents.
//!
//! JSON requires escapes for C0 controls only. Everything else that [`is_active`] names is escaped here as well, as
//! `\uXXXX`, so that a parser still gets the original text.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::value::is_active;

/// Writes a document over several indented lines, with a newline at its end.
pub fn write_document(to: impl Write, value: &impl Serialize) -> io::Result<()> {
    write(to, value, PrettyFormatter::new())
}

/// Writes a document on one line, with a newline at its end.
pub fn write_line(to: impl Write, value: &impl Serialize) -> io::Result<()> {
    write(to, value, CompactFormatter)
}

fn write(mut to: impl Write, value: &impl Serialize, form: impl Formatter) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut to, Escaping(form)))?;
    to.write_all(b"\n")
}

/// Escapes what acts on a terminal in strings; leaves the layout to another formatter.
struct Escaping<F>(F);

impl<F: Formatter> Formatter for Escaping<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let is_plain = |byte: u8| (b' '..0x7f).contains(&byte);
        if fragment.bytes().all(is_plain) {
            return to.write_all(fragment.as_bytes());
        }
        let mut begin = 0;
        for (at, letter) in fragment
            .char_indices()
            .filter(|(_, letter)| is_active(*letter))
        {
            to.write_all(&fragment.as_bytes()[begin..at])?;
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            begin = at + letter.len_utf8();
        }
        to.write_all(&fragment.as_bytes()[begin..])
    }

    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(text: &str) -> String {
        let mut bytes = Vec::new();
        write_line(&mut bytes, &text).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn active_characters_are_escaped() {
        assert_eq!(
            document("a\u{9b}\u{202e}\u{2028}\u{61c}\u{ffff}é\u{e0001}\x7f"),
            "\"a\\u009b\\u202e\\u2028\\u061c\\uffffé\\udb40\\udc01\\u007f\"\n"
        );
    }

    proptest! {
        #[test]
        fn every_string_survives(text: String) {
            let written = document(&text);
            prop_assert!(!written.trim_end().chars().any(is_active));
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }

        #[test]
        fn layout_does_not_change_values(map in prop::collection::btree_map(".*", 0..9_u8, 0..4)) {
            let mut bytes = Vec::new();
            write_document(&mut bytes, &map).unwrap();
            let back: std::collections::BTreeMap<String, u8> =
                serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(back, map);
        }
    }
}
