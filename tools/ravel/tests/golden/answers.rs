//! Answers: their conclusion comes first, they fit the screen, and they do not claim what was not looked at.

use std::collections::BTreeSet;

use unicode_width::UnicodeWidthStr;

use super::{output, piped, ravel, sample, shown};

/// Words that no width may split: addresses, ranges, numbers with their units.
fn whole_words(text: &str) -> BTreeSet<String> {
    let words = text.split([' ', '\n', ',', ';', '(', ')', '→', '…']);
    let is_whole = |word: &&str| {
        word.contains(':') && word.bytes().any(|byte| byte.is_ascii_digit()) && !word.ends_with(':')
    };
    words.filter(is_whole).map(str::to_owned).collect()
}

/// Checks a view at 60, 80 and 160 columns: lines fit, and no address is split.
fn at_every_width(name: &str, args: &[&str], from: &str) {
    let unlimited = whole_words(&shown(args, from, None));
    for width in [60, 80, 160] {
        let text = shown(args, from, Some(width));
        for line in text.lines() {
            assert!(
                line.width() <= width as usize,
                "{name} at {width}: {line:?}"
            );
        }
        for word in whole_words(&text) {
            assert!(
                unlimited.contains(&word),
                "{name} at {width}: {word} of {unlimited:?}"
            );
        }
        insta::assert_snapshot!(format!("{name}_{width}"), text);
    }
}

#[test]
fn answers_at_every_width() {
    let sockets = "sockets-half-closed.txt";
    for (name, args, from) in [
        ("anon", &["anon"][..], "anon-bgsave-child.txt"),
        ("cow", &["cow"], "cow-bgsave-child.txt"),
        ("cow_vmas", &["cow", "--vmas"], "cow-bgsave-child.txt"),
        ("sockets", &["sockets"], sockets),
        ("sockets_why", &["sockets", "--why"], sockets),
        (
            "waiters",
            &["sockets", "--waiters"],
            "waiters-every-model.txt",
        ),
        ("who", &["who", "7000"], "sockets-of-two.txt"),
        ("stuck", &["stuck"], "sockets-of-two.txt"),
        ("stuck_why", &["stuck", "--why"], "sockets-of-two.txt"),
        ("sharers", &["sharers"], "sharers-preforked.txt"),
    ] {
        at_every_width(name, args, from);
    }
}

#[test]
fn every_answer_begins_with_its_conclusion() {
    for (args, from, first) in [
        (
            &["cow"][..],
            "cow-bgsave-child.txt",
            "redis-rdb-bgsav 901  anonymous 120.1 MiB = ",
        ),
        (
            &["sockets"],
            "sockets-half-closed.txt",
            "python3 1377: 6 sockets, ",
        ),
        (
            &["stuck"],
            "sockets-of-two.txt",
            "3 critical among 6 sockets of 2 processes",
        ),
        (
            &["who", "7000"],
            "sockets-of-two.txt",
            "port 7000: 2 sockets among ",
        ),
        (
            &["anon"],
            "anon-bgsave-child.txt",
            "redis-rdb-bgsav 901  in its anon_vmas: ",
        ),
        (
            &["sockets", "--waiters"],
            "waiters-every-model.txt",
            "server 1377: ",
        ),
    ] {
        let text = shown(args, from, None);
        assert!(text.starts_with(first), "{args:?}: {text}");
        assert!(text.lines().count() <= 40, "{args:?}: {text}");
    }
}

#[test]
fn a_locale_without_utf_8_gets_ascii() {
    for locale in ["C", "POSIX", "de_DE.ISO-8859-1"] {
        let mut command = ravel(&["stuck", "--from"]);
        command
            .arg(sample("sockets-of-two.txt"))
            .env("LC_ALL", locale);
        let (_, text, _) = output(&mut command);
        assert!(
            text.is_ascii() && text.contains("127.0.0.1:7000 > 127.0.0.1:41834"),
            "{text}"
        );
    }
}

#[test]
fn columns_rows_and_filters() {
    let cow = |args: &[&str]| shown(&[&["cow"], args].concat(), "cow-bgsave-child.txt", None);
    let text = cow(&[
        "--columns",
        "anon,mapping",
        "--sort",
        "mapping",
        "--top",
        "1",
    ]);
    let table: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.contains("ANON"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(table[0], ["ANON", "MAPPING"], "{text}");
    assert_eq!(table[1], ["72K", "/usr/bin/redis-check-rdb"], "{text}");
    assert_eq!(table[2], ["122896K", "+4", "more"], "{text}");
    let mut command = ravel(&["cow", "--sort", "x", "--from"]);
    let (code, _, stderr) = output(command.arg(sample("cow-bgsave-child.txt")));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("no column `x`; there are anon, private,"),
        "{stderr}"
    );
    for (args, sockets) in [
        (&["--state", "close_wait"][..], 1),
        (&["--state", "CLOSE-WAIT"], 1),
        (&["--port", "7000"], 3),
        (&["--port", "7000", "--state", "listen"], 1),
        (&["--netns", "1"], 0),
    ] {
        let args = [&["sockets", "--json"], args].concat();
        let text = shown(&args, "sockets-half-closed.txt", None);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json["sockets"].as_array().unwrap().len(),
            sockets,
            "{args:?}"
        );
    }
    for (args, stuck) in [
        (&["--pid", "1377"][..], 3),
        (&["--comm", "nobody"], 0),
        (&["--port", "443"], 1),
    ] {
        let args = [&["stuck", "--json"], args].concat();
        let json: serde_json::Value =
            serde_json::from_str(&shown(&args, "sockets-of-two.txt", None)).unwrap();
        assert_eq!(json["stuck"].as_array().unwrap().len(), stuck, "{args:?}");
    }
}

#[test]
fn columns_add_up() {
    let text = shown(&["cow"], "cow-bgsave-child.txt", None);
    let table = text.lines().skip_while(|line| !line.contains("PRIVATE"));
    let rows: Vec<Vec<u64>> = table
        .skip(1)
        .take_while(|line| !line.starts_with("More"))
        .map(|line| {
            let cells = line.split_whitespace().take(5);
            let number = |cell: &str| cell.trim_end_matches('K').parse().unwrap_or(0);
            cells.map(number).collect()
        })
        .collect();
    let (total, rows) = rows.split_last().unwrap();
    for column in 0..5 {
        let sum: u64 = rows.iter().map(|row| row[column]).sum();
        assert_eq!(sum, total[column], "{text}");
    }
    assert_eq!((total[0], total[1] + total[2]), (30742 * 4, 30742 * 4));
}

#[test]
fn references_that_were_not_looked_up_are_not_taken_for_none() {
    let report = std::fs::read_to_string(sample("sockets-of-two.txt")).unwrap();
    let text = report.replace(
        "inode=20813 netns=4026531840 family=inet type=stream protocol=tcp file_refs=2",
        "inode=20813 netns=4026531840 family=inet type=stream protocol=tcp file_refs=9",
    );
    assert_ne!(text, report);
    let (_, shown, _) = piped(&["stuck", "--why", "20813"], &text);
    assert!(
        shown.contains("and of the holders of 7 references that were not looked up: the last one"),
        "{shown}"
    );
    let (_, json, _) = piped(&["stuck", "--json"], &text);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["stuck"][0]["unnamed"], serde_json::Value::Null);
    assert_eq!(json["stuck"][0]["references"], 9);
}

#[test]
fn exit_statuses() {
    let two = sample("sockets-of-two.txt");
    let two = two.to_str().unwrap();
    for (args, status) in [
        (&["stuck", "--from", two][..], 0),
        (&["stuck", "--from", two, "--exit-code"], 4),
        (
            &["stuck", "--from", two, "--exit-code", "--comm", "nobody"],
            0,
        ),
        (&["who", "9", "--from", two], 3),
        (&["who", "nonsense", "--from", two], 2),
        (&["sockets", "1"], 1),
        (&["stuck"], 1),
        (&["who", "7000"], 1),
        (&["skb", "0000000000000001"], 1),
        (&["doctor"], 0),
        (&["doctor", "--exit-code"], 4),
    ] {
        assert_eq!(output(&mut ravel(args)).0, Some(status), "{args:?}");
    }
    let gone = "error report=anon_vma pid=9 errno=ESRCH message=\"it has exited\"\n";
    assert_eq!(piped(&["anon"], gone).0, Some(3));
}
