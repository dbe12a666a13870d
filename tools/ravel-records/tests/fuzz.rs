//! Texts that nobody wrote: nothing panics, and what is quoted comes back.

use proptest::collection::vec;
use proptest::prelude::*;
use ravel_records::decode::Decoded;
use ravel_records::{
    AnonVmaReport, Attached, Batch, ChainsReport, CowReport, Failed, Line, LineageReport,
    PageReport, SkbsReport, SocketsReport, Sources, Streams, Tree, Value, Version, WaitersReport,
};

const SAMPLES: [&[u8]; 14] = [
    include_bytes!("samples/anon-bgsave-child.txt"),
    include_bytes!("samples/anon-mprotect-split.txt"),
    include_bytes!("samples/sockets-half-closed.txt"),
    include_bytes!("samples/skbs-udp.txt"),
    include_bytes!("samples/skbs-headers.txt"),
    include_bytes!("samples/waiters-every-model.txt"),
    include_bytes!("samples/page-forked.txt"),
    include_bytes!("samples/cow-bgsave-child.txt"),
    include_bytes!("samples/chains-three-generations.txt"),
    include_bytes!("samples/events-batch.txt"),
    include_bytes!("samples/events-network.txt"),
    include_bytes!("samples/streams.txt"),
    include_bytes!("samples/lineage-bgsave-child.txt"),
    concat!(
        include_str!("samples/lineage-bgsave-child.txt"),
        include_str!("samples/anon-bgsave-child.txt"),
        include_str!("samples/cow-bgsave-child.txt"),
    )
    .as_bytes(),
];

/// Reads a text as everything; whatever is read must also go to JSON.
fn read_all(text: &[u8]) {
    let _ = AnonVmaReport::parse(text).map(|report| {
        report.vmas.iter().for_each(|vma| drop(report.chain(vma)));
        serde_json::to_string(&report).unwrap()
    });
    let _ = SocketsReport::parse(text).map(|report| serde_json::to_string(&report).unwrap());
    let _ = SkbsReport::parse(text).map(|report| {
        let queues = report.sockets.iter().flat_map(|of| &of.queues);
        for skb in queues.flat_map(|queue| &queue.skbs) {
            serde_json::to_string(&Decoded::of(skb)).unwrap();
        }
        serde_json::to_string(&report).unwrap()
    });
    let _ = WaitersReport::parse(text).map(|report| serde_json::to_string(&report).unwrap());
    let _ = PageReport::parse(text).map(|report| {
        for page in &report.pages {
            let _ = page.flags().count();
        }
        serde_json::to_string(&report).unwrap()
    });
    let _ = CowReport::parse(text).map(|report| {
        for vma in &report.vmas {
            let _ = vma.pages.present();
        }
        serde_json::to_string(&report).unwrap()
    });
    let _ = ChainsReport::parse_all(text).map(|reports| {
        for report in &reports {
            for vma in &report.vmas {
                let _ = (vma.pages(), vma.run.iter().map(|run| vma.index(run)).max());
            }
            serde_json::to_string(report).unwrap();
        }
    });
    let _ = LineageReport::parse(text).map(|report| {
        let _ = report.itself().map(|kin| report.children(kin.pid).count());
        serde_json::to_string(&report).unwrap()
    });
    let _ = Tree::parse(text).map(|tree| serde_json::to_string(&tree).unwrap());
    let _ = Version::parse(text);
    let _ = Attached::parse(text);
    let _ = Batch::parse(text).map(|batch| serde_json::to_string(&batch).unwrap());
    let _ = Failed::parse(text).map(|failed| serde_json::to_string(&failed).unwrap());
    let _ = Streams::parse(text).map(|streams| serde_json::to_string(&streams).unwrap());
    let _ = Sources::parse(text);
}

/// A string as the module quotes it.
fn quote(bytes: &[u8]) -> String {
    let inner: String = bytes
        .iter()
        .map(|byte| match byte {
            b'"' => "\\\"".to_owned(),
            b'\\' => "\\\\".to_owned(),
            b' '..=b'~' => char::from(*byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect();
    format!("\"{inner}\"")
}

/// Numbers at the edges, and words that are none of a key's.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i128>().prop_map(|number| number.to_string()),
        Just(u64::MAX.to_string()),
        Just("0xffffffffffffffff".to_owned()),
        Just("65535:set".to_owned()),
        vec(any::<u8>(), 0..20).prop_map(|bytes| quote(&bytes)),
        "[ -~]{0,12}",
    ]
}

proptest! {
    #[test]
    fn any_bytes(text in vec(any::<u8>(), 0..400)) {
        read_all(&text);
    }

    #[test]
    fn samples_with_bytes_changed(
        sample in 0..SAMPLES.len(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut text = SAMPLES[sample].to_vec();
        for (place, byte) in changes {
            let place = place.index(text.len());
            text[place] = byte;
        }
        read_all(&text);
    }

    #[test]
    fn samples_with_values_changed(
        sample in 0..SAMPLES.len(),
        changes in vec((any::<prop::sample::Index>(), values()), 1..4),
    ) {
        let mut text = String::from_utf8(SAMPLES[sample].to_vec()).unwrap();
        for (place, value) in changes {
            let equals: Vec<_> = text.match_indices('=').map(|(at, _)| at + 1).collect();
            if equals.is_empty() {
                break;
            }
            let start = equals[place.index(equals.len())];
            let end = text[start..].find([' ', '\n']).map_or(text.len(), |at| start + at);
            text.replace_range(start..end, &value);
        }
        read_all(text.as_bytes());
    }

    #[test]
    fn samples_with_lines_moved(
        sample in 0..SAMPLES.len(),
        order in vec(any::<prop::sample::Index>(), 1..40),
    ) {
        let lines: Vec<_> = SAMPLES[sample].split_inclusive(|byte| *byte == b'\n').collect();
        let text: Vec<u8> = order.iter().flat_map(|line| lines[line.index(lines.len())]).copied().collect();
        read_all(&text);
        let mut whole = lines[0].to_vec();
        whole.extend(text);
        whole.extend(lines[lines.len() - 1]);
        read_all(&whole);
    }

    #[test]
    fn quoting_comes_back(bytes in vec(any::<u8>(), 0..64)) {
        let text = format!("kind a={} b=1", quote(&bytes));
        let line = Line::parse(text.as_bytes(), 1).unwrap();
        let Some(Value::Quoted(string)) = line.value("a") else {
            panic!("{text}");
        };
        prop_assert_eq!(&*string.bytes(), &bytes[..]);
        prop_assert_eq!(line.value("b"), Some(&Value::Bare("1")));
    }
}
