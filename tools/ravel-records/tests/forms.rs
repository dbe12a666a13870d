//! The binary form: what it says is what the text says, and nothing panics where it says nothing of sense.

mod raw;

use proptest::collection::vec;
use proptest::prelude::*;
use ravel_records::records::{self, ALL};
use ravel_records::{
    AnonVmaReport, Batch, ChainsReport, CowReport, Error, LineageReport, PageReport, SharersReport,
    SkbsReport, SocketsReport, WaitersReport,
};
use raw::{binary, complete, encode, frame};

const BATCH: &str = include_str!("samples/events-batch.txt");
const NETWORK: &str = include_str!("samples/events-network.txt");
const SKBS: &str = include_str!("samples/skbs-headers.txt");

const REPORTS: [&str; 9] = [
    include_str!("samples/anon-bgsave-child.txt"),
    include_str!("samples/anon-mprotect-split.txt"),
    include_str!("samples/sockets-half-closed.txt"),
    include_str!("samples/skbs-udp.txt"),
    include_str!("samples/waiters-every-model.txt"),
    include_str!("samples/page-forked.txt"),
    include_str!("samples/cow-bgsave-child.txt"),
    include_str!("samples/chains-three-generations.txt"),
    include_str!("samples/lineage-bgsave-child.txt"),
];

/// The first of the reports that a sample has.
fn first(text: &str) -> &str {
    let end = text[1..].find("\nreport ").map(|at| at + 2);
    &text[..end.unwrap_or(text.len())]
}

/// A report or a batch of any kind, as JSON; none if it is no such.
fn json(bytes: &[u8]) -> Option<String> {
    macro_rules! first {
        ($($type:ty),*) => {
            None$( .or_else(|| {
                let report = <$type>::parse(bytes).ok()?;
                Some(serde_json::to_string(&report).unwrap())
            }) )*
        };
    }
    first!(
        AnonVmaReport,
        SocketsReport,
        SkbsReport,
        WaitersReport,
        PageReport,
        CowReport,
        ChainsReport,
        LineageReport,
        SharersReport,
        Batch
    )
}

#[test]
fn both_forms_say_the_same() {
    for text in REPORTS.into_iter().chain([BATCH, NETWORK, SKBS]) {
        let text = complete(first(text));
        let wanted = json(text.as_bytes());
        assert!(wanted.is_some(), "{text}");
        assert_eq!(json(&binary(&text)), wanted);
    }
}

#[test]
fn fields_and_records_of_later_versions_are_skipped() {
    let mut later = records::prefix().to_vec();
    for line in BATCH.lines() {
        // A record that nobody knows, and more fields behind those that are known, before the strings.
        later.extend(frame(60_000, &[7; 24], b"unheard"));
        let known = encode(line);
        let (head, rest) = known.split_at(8);
        let size = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let kind = u16::from_le_bytes([head[0], head[1]]);
        let (fields, tail) = rest.split_at(size);
        later.extend(frame(kind, &[fields, &[9; 16]].concat(), tail));
    }
    let wanted = Batch::parse(BATCH.as_bytes()).unwrap();
    assert_eq!(Batch::parse(&later).unwrap(), wanted);
}

#[test]
fn records_that_lack_fields_are_refused() {
    let line = BATCH.lines().next().unwrap();
    let known = encode(line);
    let short = frame(u16::from_le_bytes([known[0], known[1]]), &known[8..16], &[]);
    let error = Batch::parse(&[&records::prefix()[..], &short].concat()).unwrap_err();
    assert!(error.to_string().contains("lacks fields"), "{error}");
}

#[test]
fn other_schemas_are_refused() {
    let mut other = binary(BATCH);
    other[12] ^= 1;
    assert!(Batch::parse(&other).is_err());
    other = binary(BATCH);
    other[7] = 2;
    assert!(Batch::parse(&other).is_err());
}

#[test]
fn definitions_do_not_overlap() {
    let all: Vec<_> = ALL.iter().copied().flatten().collect();
    for (at, info) in all.iter().enumerate() {
        assert_eq!(info.size % 8, 0, "{}", info.name);
        assert!(info.size < usize::from(u16::MAX), "{}", info.name);
        let twice = all[..at].iter().any(|other| other.kind == info.kind);
        assert!(!twice, "two records have the number {}", info.kind);
    }
}

#[test]
fn what_is_cut_is_no_batch() {
    let bytes = binary(NETWORK);
    for len in 0..bytes.len() {
        let parsed = Batch::parse(&bytes[..len]);
        assert!(
            matches!(parsed, Err(Error::Cut { .. } | Error::Parse { .. })),
            "the first {len} bytes: {parsed:?}"
        );
    }
}

#[test]
fn values_that_are_none() {
    let good = encode(BATCH.lines().nth(1).unwrap());
    assert!(Batch::parse(&binary(BATCH)).is_ok());
    for (what, at, byte) in [
        ("a length beyond the end", 5, 0x40),
        ("a length of less than the header", 4, 4),
        ("a structure beyond the record", 3, 0x40),
    ] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let parsed = Batch::parse(&[&records::prefix()[..], &bytes].concat());
        assert!(parsed.is_err(), "{what}");
    }
    // A string that begins, or ends, behind the record's.
    let mut bytes = binary(BATCH);
    for byte in [0x70, 0xff] {
        bytes[16 + 8 + 4] = byte;
        let error = Batch::parse(&bytes).unwrap_err();
        assert!(error.to_string().contains("value that is none"), "{error}");
    }
}

/// Whatever it is, it is read or refused.
fn read(bytes: &[u8]) {
    let _ = Batch::parse(bytes).map(|batch| {
        let mut text = Vec::new();
        for event in &batch.events {
            event.write_json(&mut text).unwrap();
        }
    });
    let _ = json(bytes);
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..400)) {
        read(&[&records::prefix()[..], &bytes[..]].concat());
    }

    #[test]
    fn any_frames(frames in vec((0_u16..100, vec(0_u8..9, 0..600), vec(any::<u8>(), 0..60)), 0..12)) {
        let frames = frames.iter().map(|(kind, fields, tail)| frame(*kind, fields, tail));
        read(&[records::prefix().to_vec(), frames.collect::<Vec<_>>().concat()].concat());
    }

    #[test]
    fn bytes_changed(
        sample in 0..12_usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let text = REPORTS.into_iter().chain([BATCH, NETWORK, SKBS]).nth(sample).unwrap();
        let mut bytes = binary(&complete(first(text)));
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read(&bytes);
    }
}
