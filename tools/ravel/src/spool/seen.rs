//! Which records were there before: ranges of sequence numbers and of times.

use std::collections::BTreeMap;

use ravel_records::Event;

/// Records of one stream of one boot. A stream that was removed and made again counts from 1 again, but later: in each of
/// its lives time never goes back where numbers go on, and one life begins after the one before has ended. So no two
/// ranges overlap in (time, number), and a record is looked for in one of them, however many there are.
#[derive(Debug, Default)]
pub struct Seen {
    /// By the time and the number of the first.
    ranges: BTreeMap<(u64, u64), Range>,
    /// The segment that is read.
    segment: u64,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    last: u64,
    last_time: u64,
    /// All records of a segment are of one life: only its ranges are joined.
    segment: u64,
}

impl Seen {
    /// What follows is of another segment.
    pub fn next_segment(&mut self) {
        self.segment += 1;
    }

    /// Whether it has this record.
    pub fn has(&self, event: &Event) -> bool {
        let key = (event.time(), event.seq());
        let before = self.ranges.range(..=key).next_back();
        before.is_some_and(|((_, first), range)| {
            (*first..=range.last).contains(&event.seq()) && event.time() <= range.last_time
        })
    }

    /// Adds a record that it has not.
    pub fn add(&mut self, event: &Event) {
        let mut key = (event.time(), event.seq());
        let mut new = Range {
            last: event.seq().saturating_add(event.count().saturating_sub(1)),
            last_time: event.time(),
            segment: self.segment,
        };
        let segment = self.segment;
        let is_own = |range: &Range| range.segment == segment;
        let behind = self.ranges.range(key..).next();
        let behind =
            behind.filter(|(at, range)| is_own(range) && new.last.checked_add(1) == Some(at.1));
        if let Some((&at, &range)) = behind {
            self.ranges.remove(&at);
            (new.last, new.last_time) = (range.last, range.last_time);
        }
        let before = self.ranges.range(..key).next_back();
        let before =
            before.filter(|(_, range)| is_own(range) && range.last.checked_add(1) == Some(key.1));
        if let Some((&at, _)) = before {
            key = at;
        }
        self.ranges.insert(key, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ravel_records::Loss;

    fn record(seq: u64, time: u64, count: u64) -> Event {
        Event::Loss(Loss {
            seq,
            attempt: 1,
            time,
            last: time,
            cpu: 0,
            count,
        })
    }

    #[test]
    fn lives_of_a_stream_are_kept_apart() {
        let mut seen = Seen::default();
        for seq in [1, 2, 3, 6] {
            seen.add(&record(seq, seq * 10, 1));
        }
        seen.add(&record(4, 40, 2));
        // All that was is one range.
        assert_eq!(seen.ranges.len(), 1);
        seen.next_segment();
        // Made again: what it counts from 1 on is new, and what follows the number of the life before.
        for (seq, has) in [(1, false), (6, false), (7, false)] {
            assert_eq!(seen.has(&record(seq, 1000 + seq, 1)), has, "{seq}");
        }
        seen.add(&record(7, 1007, 1));
        assert_eq!(seen.ranges.len(), 2);
        assert!(!seen.has(&record(5, 1005, 1)));
        assert!(seen.has(&record(5, 50, 1)) && seen.has(&record(7, 1007, 1)));
    }

    #[test]
    fn many_segments_cost_as_much_as_one() {
        let mut seen = Seen::default();
        for seq in 0..50_000 {
            // Of two readers in turn, a segment each.
            seen.next_segment();
            let event = record(seq + 1, seq * 10, 1);
            assert!(!seen.has(&event));
            seen.add(&event);
            assert!(seen.has(&event));
        }
    }
}
