//! The binary form: what it says is what the text says, and nothing panics where it says nothing of sense.

use proptest::collection::vec;
use proptest::prelude::*;
use ravel_records::{Batch, Line, SkbsReport, Value};

const BATCH: &str = include_str!("samples/events-batch.txt");
const NETWORK: &str = include_str!("samples/events-network.txt");
const SKBS: &str = include_str!("samples/skbs-headers.txt");
const MAGIC: &[u8; 8] = b"\x7fravel\x00\x02";
const SHAPE: u32 = u32::MAX;

/// A value's type and bytes. Text does not tell all types, so keys do.
fn value(key: &str, value: &Value<'_>) -> (u8, Vec<u8>) {
    let with_len = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes(), bytes].concat();
    let text = match value {
        Value::Quoted(text) => return (6, with_len(&text.bytes())),
        Value::Bare(text) => *text,
        other => panic!("{other} in text"),
    };
    let flags = [
        "file_cut", "core", "exiting", "cloned", "shared", "fragment",
    ];
    if flags.contains(&key) {
        return (4, vec![text.parse().unwrap()]);
    }
    if let Some((raw, mark)) = text.split_once(':') {
        let raw: u16 = raw.parse().unwrap();
        return (
            8,
            [&raw.to_le_bytes()[..], &[u8::from(mark == "set")]].concat(),
        );
    }
    if let (true, Some(digits)) = (key.ends_with("protocol"), text.strip_prefix("0x")) {
        let number = u16::from_str_radix(digits, 16).unwrap();
        return (7, number.to_le_bytes().to_vec());
    }
    // No number here has so many digits.
    let id = u64::from_str_radix(text, 16);
    if let Some(id) = id.ok().filter(|_| text.len() == 16) {
        return (3, id.to_le_bytes().to_vec());
    }
    match text.parse::<u64>() {
        Ok(number) => (0, number.to_le_bytes().to_vec()),
        Err(_) => (5, with_len(text.as_bytes())),
    }
}

fn frame(shape: u32, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32).to_le_bytes();
    [&len[..], &shape.to_le_bytes(), body].concat()
}

fn name(name: &str) -> Vec<u8> {
    [&[name.len() as u8][..], name.as_bytes()].concat()
}

/// A text in the binary form, every shape told as often as asked.
fn binary(text: &str, again: bool) -> Vec<u8> {
    let mut all = MAGIC.to_vec();
    let mut shapes: Vec<Vec<u8>> = Vec::new();
    for line in text.lines() {
        let line = Line::parse(line.as_bytes(), 1).unwrap();
        let (mut shape, mut body) = (name(line.kind), Vec::new());
        for (key, its) in line.fields() {
            let (type_, bytes) = value(key, its);
            shape.push(type_);
            shape.extend(name(key));
            body.extend(bytes);
        }
        let known = shapes.iter().position(|told| *told == shape && !again);
        let at = known.unwrap_or_else(|| {
            all.extend(frame(SHAPE, &shape));
            shapes.push(shape);
            shapes.len() - 1
        });
        all.extend(frame(at as u32, &body));
    }
    all
}

#[test]
fn both_forms_say_the_same() {
    for text in [BATCH, NETWORK] {
        let wanted = Batch::parse(text.as_bytes()).unwrap();
        for again in [false, true] {
            let bytes = binary(text, again);
            assert_eq!(Batch::parse(&bytes).unwrap(), wanted);
        }
    }
}

#[test]
fn order_and_keys_of_a_shape_are_its_own() {
    // Keys in another order, and one more that nobody knows.
    let turned: String = BATCH
        .lines()
        .map(|line| {
            let mut words: Vec<&str> = line.split(' ').collect();
            if line.contains('"') {
                return format!("{line} unheard=7\n");
            }
            words[1..].reverse();
            words.join(" ") + " unheard=7\n"
        })
        .collect();
    assert_eq!(
        Batch::parse(&binary(&turned, false)).unwrap(),
        Batch::parse(BATCH.as_bytes()).unwrap()
    );
    let missing = NETWORK.replace(" cpu=1", "");
    let error = Batch::parse(&binary(&missing, false)).unwrap_err();
    assert!(error.to_string().contains("`cpu` is missing"), "{error}");
}

#[test]
fn what_is_cut_is_no_batch() {
    let bytes = binary(NETWORK, false);
    for len in 0..bytes.len() {
        assert!(
            Batch::parse(&bytes[..len]).is_err(),
            "the first {len} bytes"
        );
    }
}

#[test]
fn values_that_are_none() {
    let good = binary(NETWORK, false);
    let at = |bytes: &[u8]| good.windows(bytes.len()).position(|some| some == bytes);
    for (what, with) in [
        // A length that goes beyond the record, a mark that is none, a shape that was not told, an older form.
        (&b"\x03\x00udp"[..], &b"\x03\xf0udp"[..]),
        (b"\x03\x00udp", b"\x03\x00u\xffp"),
        (b"\x32\x00\x01", b"\x32\x00\x02"),
        (b"ravel\x00\x02", b"ravel\x00\x01"),
    ] {
        let mut bytes = good.clone();
        let at = at(what).unwrap();
        bytes[at..at + with.len()].copy_from_slice(with);
        assert!(Batch::parse(&bytes).is_err(), "{with:?}");
    }
    assert!(Batch::parse(&[&good[..], &frame(999, b"")].concat()).is_err());
    let twice = [&name("k")[..], &[0], &name("a"), &[0], &name("a")].concat();
    assert!(Batch::parse(&[MAGIC, &frame(SHAPE, &twice)[..]].concat()).is_err());
}

/// Whatever it is, it is read or refused.
fn read(bytes: &[u8]) {
    let _ = Batch::parse(bytes).map(|batch| {
        let mut text = Vec::new();
        for event in &batch.events {
            event.write_json(&mut text).unwrap();
        }
    });
    let _ = SkbsReport::parse(bytes);
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..400)) {
        read(&[MAGIC, &bytes[..]].concat());
    }

    #[test]
    fn any_frames(frames in vec((0_u32..4, any::<bool>(), vec(0_u8..9, 0..60)), 0..12)) {
        let frames = frames.iter().map(|(shape, tells, body)| {
            frame(if *tells { SHAPE } else { *shape }, body)
        });
        read(&[MAGIC.to_vec(), frames.collect::<Vec<_>>().concat()].concat());
    }

    #[test]
    fn bytes_changed(
        sample in 0..3_usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = binary([BATCH, NETWORK, SKBS][sample], false);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read(&bytes);
    }
}
