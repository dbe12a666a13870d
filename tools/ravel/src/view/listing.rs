//! Tables that fit the screen without splitting a cell: columns that are not essential are left out, paths are cut at
//! their beginning, and what is still too wide is broken between cells.

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use crate::cli::Rows;
use crate::command::Failure;
use crate::screen::{DIM, STRONG, Screen};

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head; `--columns` and `--sort` take it in lower case.
    pub name: &'static str,
    /// Numbers, at the right of the column.
    pub right: bool,
    /// When it is left out on a narrow screen: never if 0, else those with greater numbers first.
    pub spare: u8,
    /// It may be cut at the beginning.
    pub path: bool,
    /// It is only shown if `--columns` names it.
    pub hidden: bool,
}

impl Column {
    /// Words that are always shown.
    pub const fn words(name: &'static str) -> Self {
        Self {
            name,
            right: false,
            spare: 0,
            path: false,
            hidden: false,
        }
    }

    /// Numbers that are always shown.
    pub const fn numbers(name: &'static str) -> Self {
        Self {
            right: true,
            ..Self::words(name)
        }
    }

    /// The same column, left out on a narrow screen.
    pub const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }

    /// The same column, cut where the screen is narrow.
    pub const fn path(self) -> Self {
        Self { path: true, ..self }
    }

    /// The same column, not shown unless it is named.
    pub const fn hidden(self) -> Self {
        Self {
            hidden: true,
            ..self
        }
    }
}

/// A cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    style: Style,
    key: Option<u64>,
}

impl Cell {
    /// Words.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// Words in a style.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
            key: None,
        }
    }

    /// A number, written in some form; a dim dash for 0.
    pub fn number(number: u64, text: impl Into<String>) -> Self {
        match number {
            0 => Self {
                key: Some(0),
                ..Self::none()
            },
            number => Self {
                text: text.into(),
                style: Style::new(),
                key: Some(number),
            },
        }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self::styled("-", DIM)
    }

    /// Its words.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same cell, sorted by a number.
    pub fn by(self, key: u64) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }
}

/// A row, and what is remarked on it.
#[derive(Clone, Debug)]
pub struct Row {
    /// One for each column.
    pub cells: Vec<Cell>,
    /// What stands behind the cells, or below them where that is too wide.
    pub note: String,
}

/// A table.
pub struct Listing {
    columns: Vec<Column>,
    rows: Vec<Row>,
    /// Rows that are shown unless more are asked for.
    few: usize,
    /// A row for those that are not shown, and one for all; neither is sorted.
    last: Vec<Row>,
}

/// Columns between two cells.
const GAP: usize = 2;
/// The width that a path keeps while there are columns to be left out.
const ENOUGH: usize = 28;
/// The least width of a path that is cut.
const LEAST: usize = 16;

impl Listing {
    /// A table without rows.
    pub fn new(columns: &[Column], few: usize) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            few,
            last: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn add(&mut self, cells: Vec<Cell>, note: String) {
        self.rows.push(Row { cells, note });
    }

    /// Sorts the rows as asked, and returns how many of them are shown.
    fn arrange(&mut self, options: &Rows) -> Result<usize, Failure> {
        if let Some(key) = &options.sort {
            let at = self.place(key)?;
            let key = |row: &Row| {
                let cell = &row.cells[at];
                (std::cmp::Reverse(cell.key), cell.text.clone())
            };
            self.rows.sort_by_key(key);
        }
        Ok(match (options.top, options.all) {
            (Some(top), _) => top.min(self.rows.len()),
            (None, true) => self.rows.len(),
            // To fold one row would take as much room as to show it.
            (None, false) if self.rows.len() == self.few + 1 => self.rows.len(),
            (None, false) => self.few.min(self.rows.len()),
        })
    }

    fn place(&self, name: &str) -> Result<usize, Failure> {
        let same = |column: &Column| column.name.eq_ignore_ascii_case(name);
        self.columns.iter().position(same).ok_or_else(|| {
            let known: Vec<String> = self
                .columns
                .iter()
                .filter(|column| !column.name.is_empty())
                .map(|column| column.name.to_ascii_lowercase())
                .collect();
            Failure::Usage(format!(
                "there is no column `{}`; there are {}",
                ravel_records::visible(name),
                known.join(", ")
            ))
        })
    }

    /// The table as text; with a line that counts the rows that are left out. `fold` makes rows of these and of all rows,
    /// given the hidden ones.
    pub fn draw(
        mut self,
        options: &Rows,
        screen: &Screen,
        fold: impl FnOnce(&[Row]) -> Vec<Row>,
    ) -> Result<String, Failure> {
        let shown = self.arrange(options)?;
        let hidden = self.rows.split_off(shown);
        self.last = fold(&hidden);
        let width = screen.width.filter(|_| !options.wide);
        let chosen = self.choose(options, width)?;
        let mut text = self.lines(&chosen, width);
        if !hidden.is_empty() && self.last.is_empty() {
            text.push_str(&format!(
                "{DIM}+{} more (--all, --top N){DIM:#}\n",
                hidden.len()
            ));
        }
        Ok(text)
    }

    fn all_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(&self.last)
    }

    fn natural(&self, at: usize) -> usize {
        let cells = self.all_rows().map(|row| row.cells[at].text.width());
        cells.fold(self.columns[at].name.width(), usize::max)
    }

    fn total(&self, chosen: &[usize]) -> usize {
        let cells: usize = chosen.iter().map(|at| self.natural(*at)).sum();
        cells + GAP * chosen.len().saturating_sub(1)
    }

    fn choose(&self, options: &Rows, width: Option<usize>) -> Result<Vec<usize>, Failure> {
        if !options.columns.is_empty() {
            return options
                .columns
                .iter()
                .map(|name| self.place(name))
                .collect();
        }
        let visible = |at: &usize| !self.columns[*at].hidden;
        let mut chosen: Vec<usize> = (0..self.columns.len()).filter(visible).collect();
        let Some(width) = width else {
            return Ok(chosen);
        };
        // Paths give way before columns do, but not to nothing.
        let least = |chosen: &[usize]| {
            let cut = chosen.iter().map(|at| match self.columns[*at].path {
                true => self.natural(*at).saturating_sub(ENOUGH),
                false => 0,
            });
            self.total(chosen) - cut.sum::<usize>()
        };
        while least(&chosen) > width {
            let spare = |at: &usize| self.columns[*at].spare;
            let Some(worst) = chosen
                .iter()
                .copied()
                .filter(|at| spare(at) > 0)
                .max_by_key(spare)
            else {
                break;
            };
            chosen.retain(|at| *at != worst);
        }
        Ok(chosen)
    }

    fn lines(&self, chosen: &[usize], width: Option<usize>) -> String {
        let mut widths: Vec<usize> = chosen.iter().map(|at| self.natural(*at)).collect();
        if let Some(width) = width {
            let mut over = self.total(chosen).saturating_sub(width);
            for (place, at) in chosen.iter().enumerate().rev() {
                if self.columns[*at].path && over > 0 {
                    let cut = over.min(widths[place].saturating_sub(LEAST));
                    widths[place] -= cut;
                    over -= cut;
                }
            }
        }
        let head: Vec<Cell> = chosen
            .iter()
            .map(|at| Cell::styled(self.columns[*at].name, STRONG))
            .collect();
        let mut text = self.line(chosen, &widths, &head.iter().collect::<Vec<_>>());
        for row in self.all_rows() {
            let cells: Vec<&Cell> = chosen.iter().map(|at| &row.cells[*at]).collect();
            let mut line = self.line(chosen, &widths, &cells);
            if !row.note.is_empty() {
                let note = &row.note;
                let used = plain_width(line.trim_end_matches('\n')) + GAP + plain_width(note);
                match width.is_none_or(|width| used <= width) {
                    true => line.insert_str(line.len() - 1, &format!("  {note}")),
                    false => line.push_str(&fold(&format!("    {note}\n"), width)),
                }
            }
            text.push_str(&line);
        }
        // What is still too wide is broken between cells, which have no spaces that matter.
        fold(&text, width)
    }

    fn line(&self, chosen: &[usize], widths: &[usize], cells: &[&Cell]) -> String {
        let mut line = String::new();
        for (place, cell) in cells.iter().enumerate() {
            let column = &self.columns[chosen[place]];
            let wide = widths[place];
            let text = match column.path {
                true => cut(&cell.text, wide),
                false => cell.text.clone(),
            };
            let fill = " ".repeat(wide.saturating_sub(text.width()));
            let style = cell.style;
            if place > 0 {
                line.push_str("  ");
            }
            if column.right {
                line.push_str(&fill);
            }
            line.push_str(&format!("{style}{text}{style:#}"));
            if !column.right {
                line.push_str(&fill);
            }
        }
        format!("{}\n", line.trim_end())
    }
}

/// A text cut at its beginning to so many columns.
fn cut(text: &str, wide: usize) -> String {
    Screen { width: Some(wide) }.fit(text, 0)
}

/// The columns of a line without what is no text.
pub fn plain_width(line: &str) -> usize {
    anstream::adapter::strip_str(line).to_string().width()
}

/// A text with its long lines broken at spaces, never within a word. What follows is indented further than the line.
pub fn fold(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    let mut folded = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let line = line.strip_suffix('\n').unwrap_or(line);
        if plain_width(line) <= width {
            folded.push_str(line);
            folded.push('\n');
            continue;
        }
        let indent = line.len() - line.trim_start_matches(' ').len();
        let indent = (indent + 4).min(width / 2);
        let mut at = 0;
        let mut first = true;
        for word in line.split_inclusive(' ') {
            let wide = plain_width(word.trim_end_matches(' '));
            // The spaces at the beginning, and those between columns.
            let room = if first { width / 2 } else { width };
            if wide == 0 && (first || at > 0) && at + word.len() > room {
                continue;
            }
            if !first && wide > 0 && at + wide > width && at > indent {
                while folded.ends_with(' ') {
                    folded.pop();
                }
                folded.push('\n');
                folded.push_str(&" ".repeat(indent));
                at = indent;
            }
            folded.push_str(word);
            at += plain_width(word);
            first = first && wide == 0;
        }
        while folded.ends_with(' ') {
            folded.pop();
        }
        folded.push('\n');
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COLUMNS: [Column; 4] = [
        Column::numbers("FD"),
        Column::words("LOCAL"),
        Column::words("KIND").spare(1),
        Column::words("NAME").path(),
    ];

    fn listing(rows: usize) -> Listing {
        let mut listing = Listing::new(&COLUMNS, 3);
        for row in 0..rows {
            listing.add(
                vec![
                    Cell::number(row as u64, row.to_string()),
                    Cell::new(format!("127.0.0.1:{}", 40_000 + row)),
                    Cell::new("stream"),
                    Cell::new("/usr/lib/x86_64-linux-gnu/libcrypto.so.3"),
                ],
                String::new(),
            );
        }
        listing
    }

    fn drawn(rows: usize, options: &Rows, width: Option<usize>) -> String {
        let text = listing(rows)
            .draw(options, &Screen { width }, |_| Vec::new())
            .unwrap();
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn narrow_screens_lose_columns_and_never_split_cells() {
        let all = Rows::default();
        for (width, has_kind) in [
            (None, true),
            (Some(80), true),
            (Some(38), false),
            (Some(10), false),
        ] {
            let text = drawn(3, &all, width);
            assert_eq!(text.contains("stream"), has_kind, "{text}");
            assert_eq!(text.matches("127.0.0.1:4000").count(), 3, "{text}");
            if let Some(width) = width.filter(|width| *width > 20) {
                assert!(text.lines().all(|line| line.width() <= width), "{text}");
            }
        }
    }

    #[test]
    fn rows_are_sorted_and_counted() {
        let options = Rows {
            sort: Some("fd".to_owned()),
            columns: vec!["fd".to_owned()],
            ..Rows::default()
        };
        assert_eq!(
            drawn(9, &options, None),
            "FD\n 8\n 7\n 6\n+6 more (--all, --top N)\n"
        );
        let options = Rows {
            top: Some(1),
            ..options
        };
        assert_eq!(
            drawn(2, &options, None),
            "FD\n 1\n+1 more (--all, --top N)\n"
        );
        let options = Rows {
            sort: Some("nonsense".to_owned()),
            ..Rows::default()
        };
        let drawn = listing(1).draw(&options, &Screen { width: None }, |_| Vec::new());
        assert!(
            matches!(drawn, Err(Failure::Usage(text)) if text.contains("fd, local, kind, name"))
        );
    }

    proptest! {
        #[test]
        fn folding_keeps_every_word(text in "[a-z:. ]{0,200}", width in 1_usize..100) {
            let line = format!("{text}\n");
            let folded = fold(&line, Some(width));
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&folded), words(&line));
            let longest = words(&line).iter().map(|word| word.width()).max().unwrap_or(0);
            let indent = text.len() - text.trim_start().len();
            prop_assume!(indent < width);
            let most = width.max(longest + width / 2);
            prop_assert!(folded.lines().all(|line| line.width() <= most), "{}", folded);
        }
    }
}
