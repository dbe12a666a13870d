//! Whatever bytes other processes choose for their names, paths and addresses: no output acts on a terminal, a parser or a
//! browser.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use ravel_records::is_active;

/// Each view, and the samples that it shows.
const VIEWS: [(&[&str], &[&str]); 16] = [
    (&["anon"], &["anon-bgsave-child.txt"]),
    (&["anon", "--all", "--ids"], &["anon-bgsave-child.txt"]),
    (&["cow"], &["cow-bgsave-child.txt"]),
    (&["cow", "--vmas"], &["cow-bgsave-child.txt"]),
    (&["sockets", "--all"], &["sockets-half-closed.txt"]),
    (&["sockets", "--why"], &["sockets-half-closed.txt"]),
    (&["sockets", "--waiters"], &["waiters-every-model.txt"]),
    (&["who", "inode:20813"], &["sockets-of-two.txt"]),
    (&["stuck"], &["sockets-of-two.txt"]),
    (&["stuck", "--why"], &["sockets-of-two.txt"]),
    (&["skbs", "--ids"], &["skbs-headers.txt"]),
    (
        &["skb", "00aa11bb22cc33e1", "--draw"],
        &["skbs-headers.txt"],
    ),
    (&["page", "--all"], &["page-forked.txt"]),
    (&["cost"], &["chains-three-generations.txt"]),
    (&["sharers"], &["sharers-preforked.txt"]),
    (
        &["tree"],
        &[
            "lineage-bgsave-child.txt",
            "anon-bgsave-child.txt",
            "cow-bgsave-child.txt",
        ],
    ),
];

fn samples(names: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ravel-records/tests/samples");
    names
        .iter()
        .map(|name| std::fs::read_to_string(folder.join(name)).unwrap())
        .collect()
}

/// The reports with all strings replaced but the kernel's release.
fn with_strings(text: &str, bytes: &[u8]) -> String {
    let quoted = bytes.iter().fold(String::new(), |mut quoted, byte| {
        let _ = write!(quoted, "\\x{byte:02x}");
        quoted
    });
    let mut changed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("=\"") {
        let (before, after) = rest.split_at(at + 2);
        let mut end = 0;
        let letters = after.as_bytes();
        while letters[end] != b'"' {
            end += if letters[end] == b'\\' { 2 } else { 1 };
        }
        changed.push_str(before);
        match before.ends_with("kernel=\"") {
            true => changed.push_str(&after[..end]),
            false => changed.push_str(&quoted),
        }
        rest = &after[end..];
    }
    changed + rest
}

/// The program on a text: what it prints.
fn shown(args: &[&str], text: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ravel"))
        .args(args)
        .args(["--from", "-"])
        .env("RAVEL_DEBUGFS", "/nonexistent/ravel")
        .env("COLUMNS", "80")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {errors}\n{text}");
    String::from_utf8(output.stdout).unwrap()
}

fn check(bytes: &[u8]) {
    let active = |letter: &char| *letter != '\n' && is_active(*letter);
    for (args, names) in VIEWS {
        let text = with_strings(&samples(names), bytes);
        let shown_text = shown(args, &text);
        assert_eq!(
            shown_text.chars().find(active),
            None,
            "{args:?} of {bytes:?}:\n{shown_text}"
        );
        let json = shown(&[args, &["--json"]].concat(), &text);
        assert_eq!(
            json.chars().find(active),
            None,
            "{args:?} --json of {bytes:?}:\n{json}"
        );
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let text = with_strings(&samples(&["chains-three-generations.txt"]), bytes);
    for ending in ["svg", "dot"] {
        let path = folder.path().join(format!("drawing.{ending}"));
        shown(&["graph", "-o", path.to_str().unwrap()], &text);
        let drawing = std::fs::read_to_string(&path).unwrap();
        let active = |letter: &char| !matches!(letter, '\n' | '\t') && is_active(*letter);
        assert_eq!(drawing.chars().find(active), None, "{ending} of {bytes:?}");
        if ending == "svg" {
            // Elements are the program's own.
            let begins = drawing.matches('<').count();
            assert_eq!(begins, drawing.matches('>').count(), "{bytes:?}");
        }
    }
}

#[test]
fn what_acts_is_escaped() {
    for text in [
        "\u{1b}[2J\r\n\t\0\x7f",
        "\u{9b}31m\u{85}",
        "\u{202e}\u{2066}\u{200f}\u{61c}",
        "\u{2028}\u{2029}\u{feff}",
        "\u{fffe}\u{ffff}\u{e0001}",
        "</text><script>\"'&",
        "\\\" ] = x",
        "",
    ] {
        check(text.as_bytes());
    }
    check(b"\xff\xfe\xc0\x80\x9b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
        check(&bytes);
    }

    #[test]
    fn any_text(text in "\\PC{0,4}[\u{80}-\u{9f}\u{2000}-\u{2070}\u{fff0}-\u{ffff}]{0,8}") {
        check(text.as_bytes());
    }
}
