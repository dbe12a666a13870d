//! `ravel graph` on saved reports: what is drawn, and that it is the same each time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SAMPLE: &str = "../ravel-records/tests/samples/chains-three-generations.txt";

/// Runs it on saved reports: the file that it writes.
fn drawn(text: &str, ending: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("saved");
    let to = folder.path().join(format!("drawing.{ending}"));
    fs::write(&from, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ravel"))
        .arg("graph")
        .args(args)
        .arg("--from")
        .arg(&from)
        .arg("-o")
        .arg(&to)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    fs::read_to_string(to).unwrap()
}

fn sample() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(SAMPLE)).unwrap()
}

/// All that stands in quotes behind a key.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let parts = text.split(key).skip(1);
    parts.filter_map(|part| part.split('"').next()).collect()
}

/// What a picture names: nodes, and edges as pairs of them, from the .dot file.
fn topology(dot: &str) -> BTreeSet<String> {
    let lines = dot.lines().filter(|line| line.contains("[class="));
    lines
        .map(|line| line.split(" [").next().unwrap().trim().replace('"', ""))
        .collect()
}

/// The same from the ids in an .svg file.
fn topology_of_svg(svg: &str) -> BTreeSet<String> {
    let ids = values(svg, "id=\"");
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "ids that are not unique");
    let known = |id: &&str| !id.starts_with("panel-") && *id != "tip";
    let parents: Vec<_> = ids.iter().filter(|id| id.starts_with("p-")).collect();
    let words = ids
        .iter()
        .copied()
        .filter(known)
        .map(|id| match id.split_once('-') {
            Some(("l", rest)) => {
                let (vma, anon_vma) = rest.rsplit_once('-').unwrap();
                format!("v-{vma} -> a-{anon_vma}")
            }
            // Whose parent, it does not say.
            Some(("p", child)) => format!("a-{child} -> "),
            _ => id.to_owned(),
        });
    let all: BTreeSet<String> = words.collect();
    assert_eq!(
        parents.len(),
        all.iter().filter(|word| word.ends_with("-> ")).count()
    );
    all
}

#[test]
fn three_generations() {
    let dot = drawn(&sample(), "dot", &[]);
    insta::assert_snapshot!(dot);
    let svg = drawn(&sample(), "svg", &[]);
    let mut want = topology(&dot);
    want = want
        .into_iter()
        .map(|word| {
            match word
                .strip_prefix("a-")
                .and_then(|rest| rest.split_once(" -> "))
            {
                Some((child, _)) => format!("a-{child} -> "),
                None => word,
            }
        })
        .collect();
    assert_eq!(topology_of_svg(&svg), want);
    for word in [
        "editor 147",
        "worker 149",
        "8 pages, 3 own",
        "depth 2",
        "likewise: [heap]",
    ] {
        assert!(svg.contains(word), "{word}");
    }
}

#[test]
fn everything_by_itself_and_one_mapping_only() {
    let all = drawn(&sample(), "dot", &["--all"]);
    // 4 processes with 6 VMAs each; 16 links of those that are two, 8 of each of the other 4.
    assert_eq!(all.matches("[class=vma").count(), 24);
    assert_eq!(all.matches("[class=own").count(), 24);
    assert_eq!(
        all.matches("[class=own").count() + all.matches("[class=avc").count(),
        16 + 4 * 8
    );
    assert_eq!(all.matches("[class=anon_vma").count(), 7 + 4 * 4);
    let one = drawn(&sample(), "dot", &["--at", "7f9b5e630000"]);
    assert_eq!(one.matches("subgraph").count(), 1);
    let want: BTreeSet<String> = [
        "v-147-7f9b5e62e000",
        "v-149-7f9b5e62e000",
        "v-150-7f9b5e62e000",
        "v-151-7f9b5e62e000",
    ]
    .map(String::from)
    .into();
    let vmas = topology(&one).into_iter();
    let vmas: BTreeSet<String> = vmas
        .filter(|word| word.starts_with("v-") && !word.contains("->"))
        .collect();
    assert_eq!(vmas, want);
}

/// A parent and children that look the same but for one.
fn crowd(children: u32) -> String {
    let mut text = String::new();
    for pid in 100..=100 + children {
        let comm = if pid == 103 { "other" } else { "worker" };
        let comm = if pid == 100 { "<parent>" } else { comm };
        let own = u64::from(pid) * 16;
        let links = if pid == 100 { 1 } else { 2 };
        text.push_str(&format!(
            "report name=chains format=1 pid={pid} comm=\"{comm}\" kernel=\"7.3.4\"\n\
             chain start=0x7000 end=0x9000 perms=rw-p anon_pgoff=0x7 anon_vma={own:016x} \
             root=0000000000000640 links={links} name=\"\"\n\
             link vma=0x7000 anon_vma={own:016x} own=1 parent=0000000000000640 depth={} \
             children=1 active_vmas=1 refcount=1\n",
            links - 1
        ));
        if pid > 100 {
            text.push_str(
                "link vma=0x7000 anon_vma=0000000000000640 own=0 parent=0000000000000640 depth=0 \
                 children=1 active_vmas=1 refcount=1\n",
            );
        }
        let pages = u64::from(pid % 2) + 1;
        text.push_str(&format!(
            "run vma=0x7000 address=0x7000 pages={pages} anon_vma={own:016x} mapcount=1\n\
             summary report=chains mm={pid:016x} vmas=1 chained=1 links={links} runs=1 pages={pages} \
             other=0 hugetlb=0 anon_vma_bytes=88 avc_bytes=64 moved=0 cut=0\n"
        ));
    }
    text
}

#[test]
fn siblings_that_look_the_same_are_folded() {
    let svg = drawn(&crowd(300), "svg", &[]);
    assert!(svg.contains(">worker 101 ×299<") && svg.contains(">other 103<"));
    assert!(svg.contains(">1–2 pages, 1 VMA<"), "{svg}");
    assert!(svg.contains(">&lt;parent&gt; 100<"));
    assert_eq!(values(&svg, "class=\"vma\" data-count=\"").len(), 3);
    let all = drawn(&crowd(300), "svg", &["--all"]);
    assert_eq!(values(&all, "class=\"vma\" data-count=\""), ["1"; 301]);
    // Three are few enough to be drawn one by one.
    let few = drawn(&crowd(4), "svg", &[]);
    assert_eq!(values(&few, "class=\"vma\" data-count=\""), ["1"; 5]);
}

/// Processes that each forked the next, and each has an anon_vma of its own below that of its parent.
fn chain(length: u32) -> String {
    let mut text = String::new();
    for at in 0..length {
        let (pid, own, parent) = (100 + at, 1000 + u64::from(at), 999 + u64::from(at));
        let parent = if at == 0 { own } else { parent };
        let links = if at == 0 { 1 } else { 2 };
        text.push_str(&format!(
            "report name=chains format=1 pid={pid} comm=\"a\" kernel=\"7.3.4\"\n\
             chain start=0x7000 end=0x9000 perms=rw-p anon_pgoff=0x7 anon_vma={own:016x} \
             root={:016x} links={links} name=\"\"\n\
             link vma=0x7000 anon_vma={own:016x} own=1 parent={parent:016x} depth={at} \
             children=1 active_vmas=1 refcount=1\n",
            1000
        ));
        if at > 0 {
            text.push_str(&format!(
                "link vma=0x7000 anon_vma={parent:016x} own=0 parent={:016x} depth={} \
                 children=1 active_vmas=1 refcount=1\n",
                if at == 1 { parent } else { parent - 1 },
                at - 1
            ));
        }
        text.push_str(&format!(
            "summary report=chains mm={pid:016x} vmas=1 chained=1 links={links} runs=0 pages=0 \
             other=0 hugetlb=0 anon_vma_bytes=88 avc_bytes=64 moved=0 cut=0\n"
        ));
    }
    text
}

#[test]
fn long_chains_are_folded_and_drawn_soon() {
    let text = chain(8000);
    let start = Instant::now();
    let dot = drawn(&text, "dot", &[]);
    assert_eq!(dot.matches("[class=anon_vma").count(), 3);
    assert!(dot.contains("count=7998,"), "{dot}");
    let svg = drawn(&text, "svg", &[]);
    assert!(
        svg.contains(">a 101 ×7998<") && svg.contains(">a 8099<"),
        "{svg}"
    );
    let all = drawn(&text, "svg", &["--all"]);
    assert_eq!(values(&all, "class=\"vma\" data-count=\"").len(), 8000);
    // Three times, on whatever machine this is; one takes a fraction of a second.
    let lasted = start.elapsed();
    assert!(lasted < Duration::from_secs(15), "{lasted:?}");
    // Few are drawn one by one.
    let dot = drawn(&chain(8), "dot", &[]);
    assert_eq!(dot.matches("[class=anon_vma").count(), 8);
}

#[test]
fn drawings_are_the_owner_s_alone() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("drawing.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_ravel"))
        .args(["graph", "--from", SAMPLE, "-o"])
        .arg(&to)
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_same_each_time() {
    for ending in ["svg", "dot"] {
        for text in [sample(), crowd(40)] {
            let first = drawn(&text, ending, &["--all"]);
            for _ in 0..5 {
                assert!(drawn(&text, ending, &["--all"]) == first);
            }
        }
    }
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ravel"))
            .arg("graph")
            .args(args)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join(SAMPLE);
    let saved = saved.to_str().unwrap();
    let (code, errors) = run(&["--from", saved, "-o", "x.png"]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("neither in .svg nor in .dot"), "{errors}");
    let (code, errors) = run(&["--from", saved, "-o", "/nonexistent/x.svg"]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("cannot write /nonexistent/x.svg"),
        "{errors}"
    );
    let (code, errors) = run(&["--from", saved, "-o", "/nonexistent/x.svg", "--at", "1000"]);
    assert_eq!(code, Some(3));
    assert!(errors.contains("contains address 1000"), "{errors}");
}
