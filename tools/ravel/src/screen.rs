//! What text looks like where it is shown: width, colours, and nothing else that a terminal acts on, but where one
//! text takes the place of another.

use std::env;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use ravel_records::Text;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What a line is about.
pub const STRONG: Style = Style::new().bold();
/// What one reads only when looking for it.
pub const DIM: Style = Style::new().dimmed();
/// A name of something.
pub const NAME: Style = AnsiColor::Cyan.on_default();
/// What is well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What asks for a look.
pub const NOTE: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// Where the output goes.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Columns, none where lines may have any length.
    pub width: Option<usize>,
}

impl Screen {
    /// Standard output: COLUMNS where it is set, else the terminal's columns, if it is one.
    pub fn of_stdout() -> Self {
        let columns = env::var("COLUMNS").ok();
        let terminal = || {
            let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
            Some(usize::from(width.0))
        };
        Self {
            width: columns
                .and_then(|columns| columns.parse().ok())
                .or_else(terminal)
                .filter(|width| *width > 0),
        }
    }

    /// A text cut to what is left of a line after `used` columns, but never to less than 16. What
    /// is cut is its beginning: of a path, the end tells most.
    pub fn fit(&self, text: &str, used: usize) -> String {
        let Some(width) = self.width else {
            return text.to_owned();
        };
        let room = width.saturating_sub(used).max(16);
        if text.width() <= room {
            return text.to_owned();
        }
        let mut left = room - 1;
        let mut kept: Vec<char> = Vec::new();
        for letter in text.chars().rev() {
            let wide = letter.width().unwrap_or(0);
            if wide > left {
                break;
            }
            left -= wide;
            kept.push(letter);
        }
        kept.push('…');
        kept.iter().rev().collect()
    }
}

/// What stands before a text that is shown anew: a terminal shows it in the place of the one before, else an empty
/// line parts them.
pub fn anew() -> &'static str {
    match std::io::stdout().is_terminal() {
        true => "\x1b[H\x1b[J",
        false => "\n",
    }
}

/// A string of a report with nothing in it that a terminal would act on: a process chooses its
/// own name.
pub fn plain(text: &Text) -> String {
    let mut shown = String::with_capacity(text.as_bytes().len());
    if text
        .as_bytes()
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~'))
    {
        shown.push_str(&String::from_utf8_lossy(text.as_bytes()));
        return shown;
    }
    for letter in text.to_string().chars() {
        // Marks that turn the direction of writing are not control characters for Rust.
        let turns = matches!(letter, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if letter.is_control() || turns {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// A text made `width` columns wide with spaces behind it.
pub fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

/// Bytes in the largest unit of which there is at least one, such as `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit: exact where floating point is not.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 {
        tenths /= 1024;
        unit += 1;
    }
    let unit = UNITS[unit];
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, _) if whole >= 100 => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// A number and its noun: `1 child`, `2 children`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            (128 << 20, "128 MiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_end_of_a_name_is_kept() {
        let screen = Screen { width: Some(40) };
        assert_eq!(screen.fit("/usr/lib/libc.so.6", 10), "/usr/lib/libc.so.6");
        assert_eq!(screen.fit("/usr/lib/libc.so.6", 24), "…r/lib/libc.so.6");
        assert_eq!(screen.fit(&"é".repeat(50), 0).width(), 40);
        assert_eq!(Screen { width: None }.fit("long", 999), "long");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(plain(&Text::from("a\x1b[2J\n")), "a\\u{1b}[2J\\n");
        assert_eq!(plain(&Text::from(vec![b'a', 0xff])), "a\u{fffd}");
        assert_eq!(plain(&Text::from("\u{202e}x")), "\\u{202e}x");
    }
}
