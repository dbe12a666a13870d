// SPDX-License-Identifier: GPL-2.0
//! Streams of events: what was handed out too often, and what is told of it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::events_leases::{check_batch, filled, next, states};
use crate::module::read_file;
use crate::stream::{Forker, Made, check_numbers, children, client, errno};
use crate::{check, check_eq, tests};

tests!("leases":
    failed_after_the_last_attempt,
    failed_can_be_replayed_and_cleared,
    long_list_of_failed_is_whole,
    losses_are_leased_like_events,
);

fn failed_after_the_last_attempt() -> Result<()> {
    let (stream, pids, mut forker) = filled("failed", 6, "attempts=3")?;
    let mut reader = stream.reader()?;
    reader.terms("ms=100")?;
    // One attempt ends by each way that there is.
    check_batch(&next(&mut reader)?, &pids, 1)?;
    reader.give_back(0)?;
    check_batch(&next(&mut reader)?, &pids, 2)?;
    thread::sleep(Duration::from_millis(150));
    check_batch(&next(&mut reader)?, &pids, 3)?;
    reader.acknowledge(Some(1))?;
    drop(reader);
    check_eq!(states(&stream)?, [0, 0, 0, 5, 1], "states");
    check!(
        stream.reader()?.batch()?.is_none(),
        "what failed is handed out"
    );
    let failed = client().failed("failed")?;
    check_eq!(failed.header.stream, "failed", "stream");
    check_eq!(
        children(&failed.events),
        pids[1..],
        "children of what failed"
    );
    check!(
        failed.events.iter().all(|event| event.attempt() == 3),
        "attempts: {failed:?}"
    );
    // Looking changes nothing, and the stream goes on.
    check_eq!(client().failed("failed")?, failed, "the same, read again");
    let more = forker.fork(2)?;
    check_eq!(children(&stream.drain()?), more, "children that come later");
    Ok(())
}

fn failed_can_be_replayed_and_cleared() -> Result<()> {
    let (stream, pids, _forker) = filled("mend", 6, "attempts=1")?;
    drop(next(&mut stream.reader()?)?);
    check_eq!(states(&stream)?, [0, 0, 0, 6, 0], "states");
    client().mend("mend", "clear 2")?;
    client().mend("mend", "replay 5")?;
    check_eq!(
        errno(client().mend("mend", "clear 2")),
        libc::ENOENT,
        "cleared twice"
    );
    check_eq!(
        errno(client().mend("mend", "replay 5")),
        libc::ENOENT,
        "replayed twice"
    );
    check_eq!(states(&stream)?, [1, 0, 0, 4, 0], "states after one each");
    let mut reader = stream.reader()?;
    check_batch(&next(&mut reader)?, &pids[4..5], 1)?;
    reader.acknowledge(None)?;
    client().mend("mend", "replay")?;
    check_eq!(
        states(&stream)?,
        [4, 0, 0, 0, 1],
        "states after all are replayed"
    );
    let want = [pids[0], pids[2], pids[3], pids[5]];
    check_batch(&next(&mut reader)?, &want, 1)?;
    drop(reader);
    client().mend("mend", "clear\n")?;
    check_eq!(
        states(&stream)?,
        [0, 0, 0, 0, 1],
        "states after all are cleared"
    );
    check_eq!(stream.state()?.cleared, 5, "cleared");
    check_eq!(client().failed("mend")?.events, [], "what failed");
    Ok(())
}

fn long_list_of_failed_is_whole() -> Result<()> {
    // More text than is made at once.
    let (stream, pids, _forker) = filled("long", 600, "attempts=1")?;
    let mut reader = stream.reader()?;
    let mut told = 0;
    while let Some(batch) = reader.batch()? {
        told += batch.events.len();
        reader.give_back(0)?;
    }
    check_eq!(told, 600, "handed out");
    let text = read_file("events/long/failed")?.whole()?;
    check!(text.len() > 65536 + 4096, "only {} bytes", text.len());
    let failed = client().failed("long")?;
    check_eq!(children(&failed.events), pids, "children");
    check_eq!(
        check_numbers(&failed.events, 1)?,
        601,
        "the number behind the last"
    );
    Ok(())
}

fn losses_are_leased_like_events() -> Result<()> {
    // On one CPU, whose ring has less room than the store.
    let mut forker = Forker::new(Some(0))?;
    let terms = format!("sources=fork tree={} bytes=16384 attempts=2", forker.pid());
    let stream = Made::new("losses", &terms)?;
    forker.fork(120)?;
    let mut reader = stream.reader()?;
    let first = next(&mut reader)?;
    check!(first.summary.lost > 0, "nothing was lost");
    drop(reader);
    let mut reader = stream.reader()?;
    let second = next(&mut reader)?;
    check_eq!(second.events.len(), first.events.len(), "records");
    for (one, two) in first.events.iter().zip(&second.events) {
        check_eq!(
            (one.seq(), one.count()),
            (two.seq(), two.count()),
            "number and count"
        );
        check_eq!((one.attempt(), two.attempt()), (1, 2), "attempts");
    }
    check_eq!(
        check_numbers(&second.events, 1)?,
        121,
        "the number behind the last"
    );
    let loss = second
        .events
        .iter()
        .find(|event| event.count() > 1)
        .context("no loss")?;
    reader.acknowledge(Some(loss.seq()))?;
    drop(reader);
    let failed = client().failed("losses")?.events;
    check!(
        failed.iter().all(|event| event.seq() > loss.seq()),
        "{failed:?}"
    );
    Ok(())
}
