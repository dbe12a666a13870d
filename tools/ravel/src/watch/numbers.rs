//! Numbers of packets as they are shown: consecutive, although others are followed that are not shown.

use std::collections::BTreeMap;

use ravel_records::walks::{Crossing, Origin};

/// Packets whose numbers are kept.
const MOST: usize = 1 << 17;

/// The numbers of packets that were shown.
#[derive(Default)]
pub struct Numbers {
    shown: BTreeMap<u64, u64>,
    last: u64,
}

impl Numbers {
    /// Returns a crossing with the number that is shown. An origin that was not shown is unknown.
    pub fn renumber(&mut self, crossing: &Crossing) -> Crossing {
        let last = &mut self.last;
        let mut first = false;
        let number = *self.shown.entry(crossing.packet).or_insert_with(|| {
            first = true;
            *last += 1;
            *last
        });
        let shown = |of: u64| self.shown.get(&of).copied();
        let origin = match crossing.origin {
            Origin::Clone(of) => shown(of).map_or(Origin::Unknown, Origin::Clone),
            Origin::Segment(of) => shown(of).map_or(Origin::Unknown, Origin::Segment),
            other => other,
        };
        if self.shown.len() > MOST {
            self.shown.pop_first();
        }
        Crossing {
            packet: number,
            origin,
            first,
            ..*crossing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_jump() {
        let mut numbers = Numbers::default();
        let mut told = Vec::new();
        for (packet, origin) in [
            (7, Origin::Own),
            (7, Origin::Own),
            (40, Origin::Clone(7)),
            (41, Origin::Segment(8)),
            (7, Origin::Own),
        ] {
            let shown = numbers.renumber(&Crossing {
                packet,
                origin,
                first: false,
                ends: false,
                ended: false,
                certain: true,
            });
            told.push((shown.packet, shown.origin, shown.first));
        }
        assert_eq!(
            told,
            [
                (1, Origin::Own, true),
                (1, Origin::Own, false),
                (2, Origin::Clone(1), true),
                (3, Origin::Unknown, true),
                (1, Origin::Own, false),
            ]
        );
    }
}
