//! Where the blocks of a panel stand. A panel is a tree: each block stands above the middle of what is below it, in the
//! row of its depth, and the blocks below it share no column with those below another.

use super::Panel;

/// Room between blocks side by side.
const GAP: f64 = 28.0;

/// A block's place: the middle of it, and the row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// From the left edge of the leftmost block.
    pub x: f64,
    /// Steps from the root's row.
    pub row: usize,
}

/// The place of each block, given its size, and the width of them all. Each block is looked at twice.
pub fn places(panel: &Panel, sizes: &[(f64, f64)]) -> (Vec<Place>, f64) {
    let number = panel.blocks.len();
    // What is below a block, and how wide that is. Parents stand before their children.
    let mut below = vec![0.0f64; number];
    for (at, block) in panel.blocks.iter().enumerate().rev() {
        let wide = sizes[at].0.max(below[at]);
        if let Some(parent) = block.parent {
            let gap = if below[parent] > 0.0 { GAP } else { 0.0 };
            below[parent] += gap + wide;
        }
    }
    let mut places: Vec<Place> = Vec::with_capacity(number);
    // Where the next child of each block begins.
    let mut next = vec![0.0f64; number];
    let (mut right, mut width) = (0.0f64, 0.0f64);
    for (at, block) in panel.blocks.iter().enumerate() {
        let wide = sizes[at].0.max(below[at]);
        let (begin, row) = match block.parent {
            Some(parent) => (next[parent], places[parent].row + 1),
            None => (right, 0),
        };
        match block.parent {
            Some(parent) => next[parent] += wide + GAP,
            None => right += wide + GAP,
        }
        next[at] = begin + (wide - below[at]) / 2.0;
        width = width.max(begin + wide);
        places.push(Place {
            x: begin + wide / 2.0,
            row,
        });
    }
    (places, width)
}
