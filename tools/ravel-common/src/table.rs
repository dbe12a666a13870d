//! The look that all tables share.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement};
use comfy_table::{Table, presets};

use crate::screen::Screen;

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Words, never broken.
    Left,
    /// Numbers, never broken.
    Right,
    /// Names.
    Name,
}

/// A table without lines; its head is bold.
pub fn table(screen: &Screen, columns: &[(&str, Column)]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    // What stdout wants is decided where the text is written, not here.
    table.enforce_styling();
    // Nothing is broken within a cell: what is too wide is folded at spaces where it is printed.
    table.set_content_arrangement(ContentArrangement::Disabled);
    let head = columns
        .iter()
        .map(|(name, _)| Cell::new(name).add_attribute(Attribute::Bold));
    table.set_header(head);
    let narrow = screen.width.is_some_and(|width| width < 100);
    for (place, column) in table.column_iter_mut().enumerate() {
        let kind = &columns[place].1;
        let last = place + 1 == columns.len();
        let gap = match (last, narrow) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        column.set_padding((0, gap));
        if *kind == Column::Right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table's lines, each behind `indent` spaces.
pub fn lines(table: &Table, indent: usize) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(&" ".repeat(indent));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A cell that says little.
pub fn dim(text: impl ToString) -> Cell {
    Cell::new(text).add_attribute(Attribute::Dim)
}

/// A cell that asks for a look.
pub fn note(text: impl ToString) -> Cell {
    Cell::new(text).fg(Color::Yellow)
}

/// A cell that says something is wrong.
pub fn bad(text: impl ToString) -> Cell {
    Cell::new(text)
        .fg(Color::Red)
        .add_attribute(Attribute::Bold)
}

/// A number, dim where it is 0.
pub fn number(value: impl Into<i128>) -> Cell {
    match value.into() {
        0 => dim(0),
        value => Cell::new(value),
    }
}
