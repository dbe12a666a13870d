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

/// The bytes that a terminal needs to show a text in place of the one before. They are no colours, and are written as
/// they are; none where standard output is no terminal.
pub fn anew() -> Option<&'static [u8]> {
    std::io::stdout().is_terminal().then_some(b"\x1b[H\x1b[J")
}

/// A text cut to the lines that a terminal has, with a last line that counts the others.
pub fn frame(text: &str) -> String {
    let rows =
        terminal_size::terminal_size_of(std::io::stdout()).map(|(_, rows)| usize::from(rows.0));
    rows.map_or_else(|| text.to_owned(), |rows| cut_to(text, rows))
}

fn cut_to(text: &str, rows: usize) -> String {
    let lines = text.lines().count();
    // The cursor stands on a line of its own.
    let room = rows.saturating_sub(1).max(2);
    if lines <= room {
        return text.to_owned();
    }
    let kept: String = text.split_inclusive('\n').take(room - 1).collect();
    let hidden = count((lines - room + 1) as u64, "more line", "more lines");
    format!("{kept}{DIM}{hidden} than the screen has{DIM:#}\n")
}

/// A string of a report with nothing in it that a terminal would act on: a process chooses its
/// own name.
pub fn plain(text: &Text) -> String {
    text.visible()
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
    let rounded = |number: u128, by: u128| (number + by / 2) / by;
    let (mut unit, mut divisor) = (0, 1024u128);
    // Rounded, 1023.96 of a unit is one of the next.
    while unit + 1 < UNITS.len() && rounded(u128::from(bytes) * 10, divisor) >= 10_240 {
        unit += 1;
        divisor *= 1024;
    }
    let tenths = rounded(u128::from(bytes) * 10, divisor);
    let whole = rounded(u128::from(bytes), divisor);
    let unit = UNITS[unit];
    match (tenths / 10, tenths % 10) {
        _ if whole >= 100 => format!("{whole} {unit}"),
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// Parts of a sum of bytes, all in one unit and rounded so that they add up to the sum as it is shown, which comes first.
///
/// Below 10 MiB everything is in KiB, so that pages are exact. A part that is rounded to nothing is shown as `<0.1`.
pub fn split(parts: &[u64]) -> Vec<String> {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let parts: Vec<u128> = parts.iter().map(|part| u128::from(*part)).collect();
    let sum: u128 = parts.iter().sum();
    let (mut unit, mut divisor) = (0, 1024u128);
    while unit + 1 < UNITS.len() && sum >= 10 * 1024 * divisor {
        unit += 1;
        divisor *= 1024;
    }
    let name = UNITS[unit];
    let scale = if unit == 0 { 1 } else { 10 };
    let shown = (sum * scale + divisor / 2) / divisor;
    // Largest remainder: each part is rounded down, and what is missing goes to those that lost most.
    let mut units: Vec<u128> = parts.iter().map(|part| part * scale / divisor).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(parts[*at] * scale % divisor));
    let missing = shown.saturating_sub(units.iter().sum());
    for at in order
        .into_iter()
        .take(usize::try_from(missing).unwrap_or(0))
    {
        units[at] += 1;
    }
    let text = |number: u128, bytes: u128| match (scale, number) {
        (_, 0) if bytes == 0 => format!("0 {name}"),
        (1, 0) => format!("<1 {name}"),
        (1, number) => format!("{number} {name}"),
        (_, 0) => format!("<0.1 {name}"),
        (_, number) => format!("{}.{} {name}", number / 10, number % 10),
    };
    let parts = units
        .iter()
        .zip(&parts)
        .map(|(number, bytes)| text(*number, *bytes));
    [text(shown, sum)].into_iter().chain(parts).collect()
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
            ((1 << 20) - 1, "1 MiB"),
            ((1 << 20) - (1 << 10), "1023 KiB"),
            (4096 + 1_992_294, "1.9 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn parts_add_up() {
        assert_eq!(
            split(&[560 << 10, 2_150_400]),
            ["2660 KiB", "560 KiB", "2100 KiB"]
        );
        let thirds = [(10 << 20) + 1, (10 << 20) + 2, (10 << 20) + 2];
        assert_eq!(split(&thirds)[0], "30.0 MiB");
        let many: Vec<u64> = (1..40).map(|part| part * 1_234_567).collect();
        let number = |text: &String| {
            text.split(' ')
                .next()
                .unwrap()
                .replace('.', "")
                .parse::<u64>()
                .unwrap()
        };
        let shown = split(&many);
        assert_eq!(
            number(&shown[0]),
            shown[1..].iter().map(number).sum::<u64>()
        );
        assert_eq!(split(&[64 << 20, 1]), ["64.0 MiB", "64.0 MiB", "<0.1 MiB"]);
        assert_eq!(split(&[]), ["0 KiB"]);
        assert_eq!(
            split(&[u64::MAX, u64::MAX]),
            ["32.0 EiB", "16.0 EiB", "16.0 EiB"]
        );
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
    fn a_frame_fits_the_screen() {
        let text = "1\n2\n3\n4\n5\n";
        assert_eq!(cut_to(text, 6), text);
        let cut = cut_to(text, 4);
        assert_eq!(cut.lines().count(), 3);
        assert!(
            cut.starts_with("1\n2\n") && cut.contains("3 more lines"),
            "{cut}"
        );
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(plain(&Text::from("a\x1b[2J\n")), "a\\u{1b}[2J\\n");
        assert_eq!(plain(&Text::from(vec![b'a', 0xff])), "a\u{fffd}");
        assert_eq!(plain(&Text::from("\u{202e}x")), "\\u{202e}x");
        for letter in [
            "\u{61c}", "\u{2028}", "\u{2029}", "\u{9b}", "\u{fffe}", "\u{ffff}", "\u{feff}",
        ] {
            assert!(plain(&Text::from(letter)).is_ascii(), "{letter:?}");
        }
    }
}
