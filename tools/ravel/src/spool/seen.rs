//! Which records were there before: ranges of sequence numbers, by whence they are.

use std::collections::BTreeMap;

use ravel_records::Event;

/// Records of one segment. They are all of one life of a stream, in which time never goes back where numbers
/// go on.
#[derive(Debug, Default)]
pub struct Seen {
    /// By the first number.
    ranges: BTreeMap<u64, Range>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    last: u64,
    first_time: u64,
    last_time: u64,
}

impl Seen {
    /// Whether it has this record. A stream that was removed and made again counts from 1 again, but later:
    /// the time tells its records from those of the one before.
    pub fn has(&self, event: &Event) -> bool {
        let before = self.ranges.range(..=event.seq()).next_back();
        before.is_some_and(|(_, range)| {
            event.seq() <= range.last
                && (range.first_time..=range.last_time).contains(&event.time())
        })
    }

    /// Adds a record that it has not.
    pub fn add(&mut self, event: &Event) {
        let mut first = event.seq();
        let mut new = Range {
            last: first.saturating_add(event.count().saturating_sub(1)),
            first_time: event.time(),
            last_time: event.time(),
        };
        if let Some(behind) = new.last.checked_add(1) {
            if let Some(range) = self.ranges.remove(&behind) {
                new.last = range.last;
                new.last_time = range.last_time;
            }
        }
        let before = self.ranges.range(..first).next_back();
        if let Some((&start, &range)) = before.filter(|(_, range)| range.last + 1 == first) {
            first = start;
            new.first_time = range.first_time;
        }
        self.ranges.insert(first, new);
    }
}
