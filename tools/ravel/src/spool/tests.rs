use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use ravel_records::{Event, Exit, Loss};

use super::reader::{Summary, read};
use super::writer::Writer;
use super::{COMMIT, Commit};
use crate::origin::Origin;

fn origin(stream: &str) -> Origin {
    Origin {
        host: "here".into(),
        boot: "now".into(),
        stream: stream.into(),
    }
}

fn exit(seq: u64, time: u64) -> Event {
    Event::Exit(Exit {
        seq,
        attempt: 1,
        time,
        cpu: 0,
        pid: 7,
        tid: 7,
        born: 1,
        comm: "sh".into(),
        line: vec![1],
        code: 0,
        signal: 0,
        core: false,
    })
}

fn exits(seqs: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    seqs.map(|seq| exit(seq, seq * 10)).collect()
}

fn writer(folder: &Path) -> Writer {
    Writer::open(folder, origin("s"), u64::MAX).unwrap()
}

fn all(folder: &Path) -> (Vec<(String, u64, u64)>, Summary) {
    let mut told = Vec::new();
    let summary = read::<io::Error>(folder, |origin, event| {
        told.push((origin.stream.clone(), event.seq(), event.time()));
        Ok(())
    });
    (told, summary.unwrap())
}

fn seqs(folder: &Path) -> (Vec<u64>, Summary) {
    let (told, summary) = all(folder);
    (told.into_iter().map(|(_, seq, _)| seq).collect(), summary)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let found = super::segments(folder).unwrap();
    found.into_iter().map(|(_, path)| path).collect()
}

#[test]
fn what_was_written_is_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let mut spool = writer(&path);
    spool.append(&exits(1..=3)).unwrap();
    spool.append(&exits(4..=4)).unwrap();
    drop(spool);
    writer(&path).append(&exits(5..=6)).unwrap();
    let (seqs, summary) = seqs(&path);
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    let wanted = Summary {
        segments: 2,
        records: 6,
        ..Summary::default()
    };
    assert_eq!(summary, wanted);
}

#[test]
fn one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = writer(folder.path());
    let second = Writer::open(folder.path(), origin("s"), 1);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(first);
    writer(folder.path());
}

#[test]
fn segments_end_at_their_limit() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Writer::open(folder.path(), origin("s"), 1000).unwrap();
    for seq in 1..=40 {
        spool.append(&exits(seq..=seq)).unwrap();
    }
    let segments = segments(folder.path());
    assert!(segments.len() > 4, "{segments:?}");
    for path in &segments {
        assert!(fs::metadata(path).unwrap().len() < 1400);
    }
    assert_eq!(seqs(folder.path()).0, (1..=40).collect::<Vec<_>>());
}

/// Wherever a crash cuts the last segment, whole batches are read and nothing else; who resumes loses nothing.
#[test]
fn torn_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = writer(folder.path());
    let mut ends = Vec::new();
    for batch in [1..=2, 3..=3, 4..=6] {
        spool.append(&exits(batch.clone())).unwrap();
        let size = fs::metadata(&segments(folder.path())[0]).unwrap().len();
        ends.push((size, *batch.end()));
    }
    drop(spool);
    let path = segments(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for size in 0..=whole.len() as u64 {
        fs::write(&path, &whole[..size as usize]).unwrap();
        let kept = ends.iter().rev().find(|(end, _)| *end <= size);
        let kept = kept.map_or(0, |(_, last)| *last);
        let (found, summary) = seqs(folder.path());
        assert_eq!(found, (1..=kept).collect::<Vec<_>>(), "{size} bytes");
        assert_eq!(summary.damaged, Vec::<PathBuf>::new(), "{size} bytes");
        // All that was not acknowledged comes again, and perhaps what was written, too.
        writer(folder.path())
            .append(&exits(kept.max(1)..=6))
            .unwrap();
        let (found, summary) = seqs(folder.path());
        assert_eq!(found, (1..=6).collect::<Vec<_>>(), "{size} bytes, resumed");
        assert_eq!(summary.again, kept.min(1), "{size} bytes, resumed");
        fs::remove_file(&segments(folder.path())[1]).unwrap();
    }
}

#[test]
fn pages_of_zeros_are_no_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = writer(folder.path());
    spool.append(&exits(1..=2)).unwrap();
    let path = segments(folder.path()).remove(0);
    let before = fs::read(&path).unwrap().len();
    spool.append(&exits(3..=4)).unwrap();
    // The line that ends the batch is on the disk, and what it ends is not.
    let mut bytes = fs::read(&path).unwrap();
    bytes[before..before + 20].fill(0);
    fs::write(&path, &bytes).unwrap();
    let (found, summary) = seqs(folder.path());
    assert_eq!(found, [1, 2]);
    assert_eq!(summary.cut, (bytes.len() - before) as u64);
    assert_eq!(summary.damaged, Vec::<PathBuf>::new());
}

#[test]
fn damage_is_told_and_ends_at_the_next_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = writer(folder.path());
    for batch in [1..=2, 3..=4, 5..=6] {
        spool.append(&exits(batch)).unwrap();
    }
    let path = segments(folder.path()).remove(0);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replacen("\"seq\":3,", "\"seq\":9,", 1)).unwrap();
    let (found, summary) = seqs(folder.path());
    assert_eq!(found, [1, 2, 5, 6]);
    assert_eq!(summary.damaged, [path.clone()]);
    // Nobody knows whose records these are.
    fs::write(&path, whole.replacen("here", "hare", 1)).unwrap();
    let (found, summary) = seqs(folder.path());
    assert_eq!(found, [0; 0]);
    assert_eq!(summary.damaged, [path]);
}

#[test]
fn another_version_is_not_guessed_at() {
    let folder = tempfile::tempdir().unwrap();
    for line in ["{\"spool\":2}\n", "{\"event\":\"x\"}\n"] {
        let commit = Commit {
            records: 0,
            crc32: super::crc(line.as_bytes()),
        };
        let commit = serde_json::to_string(&commit).unwrap();
        assert!(commit.as_bytes().starts_with(COMMIT));
        let path = folder.path().join("00000001.jsonl");
        let mut file = File::create(path).unwrap();
        writeln!(file, "{line}{commit}").unwrap();
        let error = read::<io::Error>(folder.path(), |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{line}");
    }
}

#[test]
fn what_came_again_is_left_out_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = writer(folder.path());
    spool.append(&exits(4..=6)).unwrap();
    spool.append(&exits(1..=4)).unwrap();
    drop(spool);
    let mut spool = writer(folder.path());
    spool.append(&exits(2..=9)).unwrap();
    spool.append(&exits(8..=12)).unwrap();
    let (found, summary) = seqs(folder.path());
    assert_eq!(found, [4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 11, 12]);
    assert_eq!(summary.again, 1 + 5 + 2);
}

#[test]
fn a_loss_stands_for_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let loss = Event::Loss(Loss {
        seq: 3,
        attempt: 1,
        time: 30,
        last: 80,
        cpu: 0,
        count: 5,
    });
    let events = [exits(1..=2), vec![loss], exits(8..=9)].concat();
    writer(folder.path()).append(&events).unwrap();
    writer(folder.path()).append(&events).unwrap();
    let (found, summary) = seqs(folder.path());
    assert_eq!(found, [1, 2, 3, 8, 9]);
    assert_eq!((summary.lost, summary.again), (5, 5));
}

#[test]
fn streams_are_told_apart_also_by_their_lives() {
    let folder = tempfile::tempdir().unwrap();
    writer(folder.path()).append(&exits(1..=3)).unwrap();
    let mut other = Writer::open(folder.path(), origin("t"), u64::MAX).unwrap();
    other.append(&exits(2..=3)).unwrap();
    drop(other);
    // Removed and made again: the same numbers, later.
    let later: Vec<Event> = (1..=3).map(|seq| exit(seq, seq * 10 + 500)).collect();
    writer(folder.path()).append(&later).unwrap();
    writer(folder.path()).append(&later).unwrap();
    let s = |seq, time| ("s".to_owned(), seq, time);
    let t = |seq, time| ("t".to_owned(), seq, time);
    let wanted = [
        s(1, 10),
        s(2, 20),
        s(3, 30),
        t(2, 20),
        t(3, 30),
        s(1, 510),
        s(2, 520),
        s(3, 530),
    ];
    assert_eq!(all(folder.path()).0, wanted);
}

#[test]
fn a_machine_that_was_renamed_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    writer(folder.path()).append(&exits(1..=3)).unwrap();
    let renamed = Origin {
        host: "there".into(),
        ..origin("s")
    };
    let mut spool = Writer::open(folder.path(), renamed, u64::MAX).unwrap();
    spool.append(&exits(2..=5)).unwrap();
    drop(spool);
    assert_eq!(seqs(folder.path()).0, [1, 2, 3, 4, 5]);
    assert_eq!(seqs(folder.path()).1.again, 2);
}
