//! The program on saved reports: what people and programs get to see, and how it fails.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

#[path = "golden/answers.rs"]
mod answers;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../ravel-records/tests/samples")
        .join(name)
}

/// The program, where there is no module, and no terminal either.
fn ravel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ravel"));
    command
        .args(args)
        .env("RAVEL_DEBUGFS", "/nonexistent/ravel")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("COLUMNS")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE");
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// What is shown of a sample.
fn shown(args: &[&str], name: &str, columns: Option<u32>) -> String {
    let mut command = ravel(args);
    command.arg("--from").arg(sample(name));
    if let Some(columns) = columns {
        command.env("COLUMNS", columns.to_string());
    }
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

#[test]
fn anon_of_a_forked_child() {
    let text = shown(&["anon", "--vmas"], "anon-bgsave-child.txt", None);
    insta::assert_snapshot!(text);
}

#[test]
fn anon_on_a_narrow_screen_with_ids() {
    let text = shown(&["anon", "--ids"], "anon-bgsave-child.txt", Some(72));
    insta::assert_snapshot!(text);
}

#[test]
fn anon_of_a_split_vma() {
    insta::assert_snapshot!(shown(&["anon", "--vmas"], "anon-mprotect-split.txt", None));
}

#[test]
fn skbs_of_udp_and_tcp() {
    insta::assert_snapshot!(shown(&["skbs"], "skbs-udp.txt", None));
}

#[test]
fn skbs_with_ids() {
    insta::assert_snapshot!(shown(&["skbs", "--ids"], "skbs-headers.txt", None));
}

#[test]
fn skb_drawn() {
    for (id, snapshot) in [
        ("00aa11bb22cc33e1", "skb_in_a_tunnel"),
        ("00aa11bb22cc33e2", "skb_that_does_not_agree"),
        ("00aa11bb22cc33e3", "skb_in_an_error_queue"),
    ] {
        let text = shown(&["skb", id, "--draw"], "skbs-headers.txt", Some(100));
        insta::assert_snapshot!(snapshot, text);
    }
}

#[test]
fn skbs_raw() {
    insta::assert_snapshot!(shown(&["skbs", "--raw"], "skbs-udp.txt", Some(120)));
}

#[test]
fn pages_of_a_forked_child() {
    insta::assert_snapshot!(shown(&["page"], "page-forked.txt", None));
}

#[test]
fn pages_with_ids_on_a_narrow_screen() {
    let text = shown(&["page", "--ids"], "page-forked.txt", Some(90));
    insta::assert_snapshot!(text);
}

/// 512 pages of a huge one, which 12 others map, and a page in the middle that was copied.
fn huge() -> String {
    let mut text =
        String::from("report name=page format=1 pid=100 comm=\"parent\" kernel=\"7.3.4\"\n");
    let mut mappers = 0;
    for at in 0..512 {
        let address = 0x7f00_0020_0000u64 + at * 4096;
        let copied = at == 300;
        let found = if copied { 1 } else { 13 };
        let (order, place, pfn) = match copied {
            true => (0, 0, 77),
            false => (9, at, 1_048_576 + at),
        };
        let alone = u8::from(copied);
        let index = address >> 12;
        text.push_str(&format!(
            "page address={address:#x} kind=anon pfn={pfn} order={order} place={place} \
             index={index:#x} mapcount={found} folio_mapcount={found} exclusive={alone} huge=0 \
             writable={alone} dirty=1 accessed=1 mapping=00000000000000aa \
             flags=uptodate,swapbacked walked=1 visited=13 found={found} moved=0\n"
        ));
        for pid in 100..100 + found {
            let relation = if pid == 100 { "self" } else { "descendant" };
            text.push_str(&format!(
                "mapper page={address:#x} pid={pid} comm=\"c\" state=live mm={pid:016x} \
                 relation={relation} at={address:#x} writable=0 dirty=1 accessed=1\n"
            ));
            mappers += 1;
        }
    }
    text + &format!(
        "summary report=page pages=512 empty=0 unmapped=0 hugetlb=0 mappers={mappers} moved=0 cut=0\n"
    )
}

#[test]
fn pages_in_a_row_are_one_line() {
    let (code, text, _) = piped(&["page"], &huge());
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(text);
    let (_, all, _) = piped(&["page", "--all"], &huge());
    assert_eq!(all.matches("same address").count(), 511 * 13 + 1);
}

#[test]
fn cow_of_everything() {
    insta::assert_snapshot!(shown(&["cow", "--all"], "cow-bgsave-child.txt", None));
}

#[test]
fn cow_with_many_is_folded() {
    let mut text = String::from(
        "report name=cow format=1 pid=100 comm=\"parent\" kernel=\"7.3.4\"\n\
         cow start=0x7000 end=0x8000 perms=rw-p anon=1 exclusive=0 shared=1 own=1 inherited=0 \
         huge=0 file=0 zero=0 ksm=0 swap=0 migration=0 other=0 moved=0 name=\"[heap]\"\n",
    );
    for pid in 101..301 {
        text.push_str(&format!(
            "share vma=0x7000 pid={pid} comm=\"c\" state=live mm={pid:016x} relation=descendant \
             pages=1\n"
        ));
    }
    text.push_str(
        "summary report=cow vmas=1 told=1 public=0 hugetlb=0 anon=1 exclusive=0 shared=1 own=1 \
         inherited=0 huge=0 file=0 zero=0 ksm=0 swap=0 migration=0 other=0 moved=0 cut=0\n",
    );
    let (code, shown, _) = piped(&["cow", "--vmas"], &text);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(shown);
    let (_, all, _) = piped(&["cow", "--all"], &text);
    assert_eq!(all.matches("4K with descendant").count(), 200);
}

/// The three reports that a tree is made of.
fn tree() -> String {
    let names = ["lineage", "anon", "cow"].map(|name| format!("{name}-bgsave-child.txt"));
    names
        .map(|name| std::fs::read_to_string(sample(&name)).unwrap())
        .concat()
}

#[test]
fn tree_of_a_forked_child() {
    let (code, text, _) = piped(&["tree"], &tree());
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(text);
    let (_, json, _) = piped(&["tree", "--json"], &tree());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["edges"][0]["agreement"], "agrees");
    assert_eq!(json["lineage"]["summary"]["descendants"], 3);
}

#[test]
fn tree_with_many_children_is_folded() {
    let mut more = String::new();
    for pid in 2001..2201 {
        more.push_str(&format!(
            "process pid={pid} role=descendant generation=1 comm=\"w\" state=live parent=901 tracer=0 \
             ns_pid={pid} threads=1 born_ns=93000000000 exec=0 vfork=0 init=0 subreaper=0 \
             same_vm=0 same_files=0 same_fs=0\n"
        ));
    }
    let text = tree()
        .replace(
            "summary report=lineage",
            &format!("{more}summary report=lineage"),
        )
        .replace("descendants=3", "descendants=203");
    let (code, shown, _) = piped(&["tree"], &text);
    assert_eq!(code, Some(0));
    assert!(shown.contains("195 more children (--all)"), "{shown}");
    let (_, all, _) = piped(&["tree", "--all"], &text);
    assert_eq!(all.matches("─ 2").count(), 200);
    // Circles of whoever changed the text end.
    let circle = tree()
        .replace("pid=901 role=self", "pid=901 role=self ")
        .replace(
            "pid=910 role=descendant generation=1 comm=\"gzip\" state=live parent=901",
            "pid=910 role=descendant generation=1 comm=\"gzip\" state=live parent=911",
        );
    assert_eq!(
        piped(&["tree"], &circle.replace("self  ", "self ")).0,
        Some(0)
    );
}

#[test]
fn cost_of_three_generations() {
    let name = "chains-three-generations.txt";
    insta::assert_snapshot!(shown(&["cost"], name, None));
    let json: serde_json::Value =
        serde_json::from_str(&shown(&["cost", "--json"], name, None)).unwrap();
    let families = json["families"].as_array().unwrap();
    let area = families
        .iter()
        .find(|family| family["start"] == "0x7f9b5e62e000")
        .unwrap();
    // Root: the parent's 8, of which 5 are mapped by 4, and 3 by it and the one forked later. The child's: 3, of
    // which 2 are mapped by the grandchild, too. The grandchild's: 1.
    for (key, want) in [
        ("vmas", 4),
        ("anon_vmas", 4),
        ("links", 1 + 2 + 3 + 2),
        ("pages", 8 + 3 + 1),
        ("entries", 5 * 4 + 3 * 2 + 2 * 2 + 1 + 1),
        ("pte_chains", 5 + 3 + 2),
    ] {
        assert_eq!(area[key], want, "{key}");
    }
    assert_eq!(area["avcs_mean"], (8 * 4 + 3 * 2 + 1) as f64 / 12.0);
    assert_eq!(json["designs"][2]["objects"], families.len());
}

#[test]
fn cost_of_one_without_memory() {
    let text = "report name=chains format=1 pid=7 comm=\"empty\" kernel=\"7.3.4\"\n\
        summary report=chains mm=00000000000000aa vmas=3 chained=0 links=0 runs=0 pages=0 other=0 \
        hugetlb=0 anon_vma_bytes=88 avc_bytes=64 moved=2 cut=0\n";
    let (code, shown, _) = piped(&["cost"], text);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(shown);
    let (code, _, stderr) = piped(&["cost"], "");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("has no summary"), "{stderr}");
}

#[test]
fn json_documents() {
    insta::assert_snapshot!(shown(&["anon", "--json"], "anon-mprotect-split.txt", None));
    insta::assert_snapshot!(shown(&["skbs", "--json"], "skbs-udp.txt", None));
    let text = shown(&["sockets", "--json"], "sockets-half-closed.txt", None);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["sockets"][1]["shutdown"], serde_json::json!(["wr"]));
    assert_eq!(json["sockets"][1]["sk_state"], "fin_wait2");
    assert_eq!(json["ravel"]["live"], false);
    assert_eq!(json["ravel"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["ravel"]["time"], serde_json::Value::Null);
    assert_eq!(json["summary"]["sockets"], 7);
}

/// 200 children below one parent, all in its first anon_vma.
fn crowd() -> String {
    let mut text = String::from(
        "report name=anon_vma format=1 pid=100 comm=\"parent\" kernel=\"7.3.4\"\n\
         vma start=0x7000 end=0x8000 perms=rw-p pgoff=0x7 anon_pgoff=0x7 \
         anon_vma=00000000000000aa chain=1 name=\"[heap]\"\n\
         avc vma=0x7000 anon_vma=00000000000000aa own=1 here=1\n\
         anon_vma id=00000000000000aa root=00000000000000aa parent=00000000000000aa depth=0 \
         children=201 active_vmas=1 refcount=201 members=201\n",
    );
    for pid in 100..301 {
        let relation = match pid {
            100 => "self",
            300 => "other",
            _ => "descendant",
        };
        text.push_str(&format!(
            "member anon_vma=00000000000000aa pid={pid} comm=\"c\" state=live mm={pid:016x} \
             start=0x7000 end=0x8000 anon_pgoff=0x7 relation={relation}\n"
        ));
    }
    text + "summary report=anon_vma vmas=1 chained=1 avcs=1 anon_vmas=1 members=201 moved=0 cut=0\n"
}

/// The program with a text on its standard input.
fn piped(args: &[&str], text: &str) -> (Option<i32>, String, String) {
    let mut child = ravel(args)
        .args(["--from", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn stuck_worst_first() {
    let json: serde_json::Value =
        serde_json::from_str(&shown(&["stuck", "--json"], "sockets-of-two.txt", None)).unwrap();
    let kinds: Vec<_> = json["stuck"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| &of["why"])
        .collect();
    // Both ends of one connection are in it: the one that has to act is shown.
    assert_eq!(kinds, ["close_wait", "over", "over"]);
    assert_eq!(json["stuck"][0]["blame"][0]["pid"], 1377);
    let other = &json["stuck"][0]["other_end"];
    assert_eq!(
        (&other["state"], &other["inode"]),
        (&"fin_wait2".into(), &20812.into())
    );
    assert_eq!(json["stuck"][0]["severity"], "critical");
    assert_eq!(json["stuck"][0]["silent_ms"], 7_980_000);
    assert_eq!(json["stuck"][2]["remote"], serde_json::Value::Null);
}

/// A process with 40 connections that its peers have closed.
fn leak() -> String {
    let report = std::fs::read_to_string(sample("sockets-of-two.txt")).unwrap();
    let (report, _) = report.split_once("\nreport ").unwrap();
    let mut lines: Vec<&str> = report.lines().collect();
    let line = lines[3].to_owned();
    assert!(line.contains("sk_state=CLOSE_WAIT"), "{line}");
    lines.truncate(1);
    let mut text = lines.join("\n");
    for fd in 10..50 {
        text.push('\n');
        text.push_str(
            &line
                .replace("fd=5 ", &format!("fd={fd} "))
                .replace("9f8e7d6c5b4a3921", &format!("{fd:016x}"))
                .replace("inode=20813", &format!("inode={}", 21_000 + fd))
                .replace("file_refs=2", "file_refs=1")
                .replace("silent_ms=7980000", &format!("silent_ms={}", 1000 * fd)),
        );
    }
    text + "\nsummary report=sockets fds=44 sockets=40 waiting=0 busy=0 cut=0\n"
}

#[test]
fn many_that_are_stuck_are_folded() {
    let (code, text, _) = piped(&["stuck"], &leak());
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(text);
    let (_, why, _) = piped(&["stuck", "--why"], &leak());
    assert_eq!(why.matches("remedy").count(), 4);
    let (_, all, _) = piped(&["stuck", "--why", "--all"], &leak());
    assert_eq!(all.matches("remedy").count(), 40);
}

#[test]
fn many_members_are_folded() {
    let (code, text, _) = piped(&["anon", "--vmas"], &crowd());
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(text);
    let (_, all, _) = piped(&["anon", "--all"], &crowd());
    assert_eq!(all.matches("same range").count(), 201);
}

#[test]
fn colours_only_where_they_are_wanted() {
    let name = "sockets-half-closed.txt";
    let plain = shown(&["sockets"], name, None);
    assert!(!plain.contains('\x1b'));
    let always = shown(&["sockets", "--color", "always"], name, None);
    assert!(always.contains("\x1b["));
    assert_eq!(anstream::adapter::strip_str(&always).to_string(), plain);
    let mut command = ravel(&["sockets", "--from"]);
    command.arg(sample(name)).env("CLICOLOR_FORCE", "1");
    assert!(output(&mut command).1.contains("\x1b["));
    command.env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1");
    assert_eq!(output(&mut command).1, plain);
}

#[test]
fn a_name_cannot_move_the_cursor() {
    let text = crowd().replace("comm=\"parent\"", "comm=\"\\x1b[2Jx\"");
    let (_, text, _) = piped(&["anon"], &text);
    assert!(text.contains("\\u{1b}[2Jx") && !text.contains('\x1b'));
}

#[test]
fn errors_say_what_to_do() {
    let cut = crowd().replace("summary", "later");
    let newer = crowd().replace("format=1", "format=9");
    let gone = "error report=anon_vma pid=9 errno=ESRCH message=\"it has exited\"\n";
    for (text, expected) in [
        (cut.as_str(), "has no summary"),
        (newer.as_str(), "the module is newer than this program"),
        (gone, "pid 9: it has exited (ESRCH)"),
        ("rubbish\n", "disagree on the report: line 1"),
    ] {
        let (code, stdout, stderr) = piped(&["anon"], text);
        let status = if text == gone { 3 } else { 1 };
        assert_eq!((code, stdout.as_str()), (Some(status), ""));
        assert!(stderr.starts_with("ravel: "), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(stderr.contains("\n  try: "), "{stderr}");
    }
    let (code, _, stderr) = output(&mut ravel(&["skbs", "1"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("\n  try: "), "{stderr}");
    let (code, _, stderr) = output(&mut ravel(&["anon", "--from", "/nonexistent"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot read /nonexistent"), "{stderr}");
    for args in [
        &["anon", "0"][..],
        &["anon", "x"],
        &["anon"],
        &["anon", "1", "--from", "f"],
        &["page", "1"],
        &["page", "1", "x"],
        &["page", "1", "2000-1000"],
        &["page", "1", "1000-2000", "3000"],
        &["page", "1", "1000", "--from", "f"],
    ] {
        assert_eq!(output(&mut ravel(args)).0, Some(2), "{args:?}");
    }
}

#[test]
fn versions() {
    for args in [&["version"][..], &["--version"], &["-V"]] {
        let (code, stdout, _) = output(&mut ravel(args));
        assert_eq!(code, Some(0));
        assert!(stdout.starts_with("ravel 0."), "{stdout}");
        assert!(stdout.contains("\nmodule unknown: "), "{stdout}");
    }
}

#[test]
fn schema_defines_records() {
    let (code, stdout, _) = output(&mut ravel(&["schema"]));
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let socket = &schema["$defs"]["socket"];
    assert_eq!(socket["properties"]["rcvbuf"]["unit"], "bytes");
    assert_eq!(socket["properties"]["nonblock"]["type"], "boolean");
}

#[test]
fn who_stops_reading_is_left_alone() {
    let mut child = ravel(&["anon", "--all", "--from", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the program has anything to write.
    drop(child.stdout.take());
    child
        .stdin
        .take()
        .unwrap()
        .write_all(crowd().as_bytes())
        .unwrap();
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(stderr, "");
}

#[test]
fn completions_for_a_shell() {
    let (code, stdout, _) = output(&mut ravel(&["completions", "bash"]));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("complete -F _ravel"), "{stdout}");
}
