// SPDX-License-Identifier: GPL-2.0
//! The module's own merging of CPUs' events (src/object/trace/merge.rs), against a plain minimum.

use proptest::collection::vec;
use proptest::prelude::*;

#[allow(dead_code)]
#[path = "../../../src/object/trace/merge.rs"]
mod merge;

use merge::{Merge, NEVER, Next};

type Arrays = Merge<Vec<u64>, Vec<u32>>;

fn new(cpus: usize) -> Arrays {
    Merge::new(vec![NEVER; cpus], vec![0; Arrays::matches(cpus)])
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..50u64, 1 => Just(NEVER)]
}

proptest! {
    #[test]
    fn oldest_is_the_least(first in vec(time(), 1..70), steps in vec((0..70usize, time(), 0..60u64), 0..100)) {
        let mut times = first;
        let mut merge = new(times.len());
        merge.set_all(|cpu| times[cpu]);
        for (cpu, time, now) in steps {
            let cpu = cpu % times.len();
            times[cpu] = time;
            merge.set(cpu, time);
            let least = times.iter().copied().min().unwrap_or(NEVER);
            match merge.next(now) {
                Next::Now(cpu, time) => {
                    prop_assert!(time <= now);
                    prop_assert_eq!((times[cpu], time), (least, least));
                }
                Next::Later(time) => {
                    prop_assert!(time > now && time != NEVER);
                    prop_assert_eq!(time, least);
                }
                Next::Nothing => prop_assert_eq!(least, NEVER),
            }
        }
    }
}

/// What happened in the very moment of the reader's look at the clock is taken: nothing older can
/// still come. What is later stays, and the reader learns when to look again.
#[test]
fn what_is_later_than_now_is_left_with_its_time() {
    let mut merge = new(2);
    merge.set(1, 7);
    assert_eq!(merge.next(7), Next::Now(1, 7));
    assert_eq!(merge.next(6), Next::Later(7));
    merge.set(0, 9);
    merge.set(1, NEVER);
    assert_eq!(merge.next(8), Next::Later(9));
    merge.set(0, NEVER);
    assert_eq!(merge.next(NEVER - 1), Next::Nothing);
}

#[test]
fn one_cpu_needs_no_match() {
    let mut merge = new(1);
    assert_eq!(merge.next(5), Next::Nothing);
    merge.set(0, 3);
    assert_eq!(merge.next(5), Next::Now(0, 3));
}
