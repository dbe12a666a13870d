//! Where the blocks of a panel stand: the x coordinates by Sugiyama's method, a row for each depth.

use rust_sugiyama::configure::{Config, CrossingMinimization, RankingType};

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

/// The place of each block, given its size, and the width of them all.
pub fn places(panel: &Panel, sizes: &[(f64, f64)]) -> (Vec<Place>, f64) {
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let mut places: Vec<Place> = Vec::with_capacity(sizes.len());
    for block in &panel.blocks {
        // A parent stands before its children.
        let row = block.parent.map_or(0, |parent| places[parent].row + 1);
        places.push(Place { x: 0.0, row });
    }
    let vertices: Vec<(u32, (f64, f64))> = sizes
        .iter()
        .enumerate()
        .map(|(at, size)| (number(at), (size.0 + GAP, size.1)))
        .collect();
    // The crate visits a vertex' neighbours from the last to the first.
    let edges: Vec<(u32, u32)> = panel
        .blocks
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(at, block)| Some((number(block.parent?), number(at))))
        .collect();
    let config = Config {
        vertex_spacing: GAP,
        ranking_type: RankingType::Up,
        c_minimization: CrossingMinimization::Barycenter,
        // A tree has no crossings to be undone.
        transpose: false,
        ..Config::default()
    };
    for (laid, _, _) in rust_sugiyama::from_vertices_and_edges(&vertices, &edges, &config) {
        for (at, (x, _)) in laid {
            if let Some(place) = places.get_mut(at) {
                place.x = x;
            }
        }
    }
    let left = |(place, size): (&Place, &(f64, f64))| place.x - size.0 / 2.0;
    let least = places.iter().zip(sizes).map(left).fold(f64::MAX, f64::min);
    places.iter_mut().for_each(|place| place.x -= least);
    let right = |(place, size): (&Place, &(f64, f64))| place.x + size.0 / 2.0;
    let width = places.iter().zip(sizes).map(right).fold(0.0, f64::max);
    (places, width)
}
