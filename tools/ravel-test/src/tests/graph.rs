// SPDX-License-Identifier: GPL-2.0
//! `ravel graph`: the nodes and edges drawn are those of a tree that was made, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use ravel_records::Id;

use crate::module;
use crate::process::{Area, Puppet, Stage};
use crate::report::{anon, vma};
use crate::sys::Pid;
use crate::{check, check_eq, tests};

tests!("graph":
    three_generations_and_a_sibling,
    alike_children_are_folded,
);

/// Draws the tree that an area of a process is in.
fn graph(pid: Pid, area: Area, ending: &str, all: bool) -> Result<String> {
    let path = format!("/tmp/graph-{pid}.{ending}");
    let mut command = Command::new(module::beside("ravel")?);
    command.args(["graph", &pid.to_string(), "-o", &path]);
    command.args(["--at", &format!("{:x}", area.start)]);
    if all {
        command.arg("--all");
    }
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let text = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    Ok(text)
}

/// Nodes and edges of a .dot file, with their counts.
fn of_dot(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.contains("[class=")) {
        let Some((what, rest)) = line.trim().split_once(" [class=") else {
            continue;
        };
        let class = rest.split([',', ']']).next().unwrap_or("");
        let count = rest.split("count=").nth(1).unwrap_or("");
        let count = count.split([',', ']']).next().unwrap_or("");
        found.insert(format!("{class} {} ×{count}", what.replace('"', "")));
    }
    found
}

/// Ids of an .svg file, but for those of what frames the drawing.
fn of_svg(text: &str) -> BTreeSet<&str> {
    let ids = text.split("id=\"").skip(1);
    ids.filter_map(|part| part.split('"').next())
        .filter(|id| !id.starts_with("panel-") && *id != "tip")
        .collect()
}

fn own(puppet: &Puppet, area: Area) -> Result<Id> {
    puppet.settle()?;
    Ok(vma(&anon(puppet.pid)?, area)?.anon_vma)
}

fn three_generations_and_a_sibling() -> Result<()> {
    let mut parent = Stage::new(4)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 5)?[0];
    let mut child = parent.fork()?;
    child.write(area.pages(0, 2))?;
    let grandchild = child.fork()?;
    let sibling = parent.fork()?;
    let who = [&parent, &child, &grandchild, &sibling];
    let ids: Vec<Id> = who
        .iter()
        .map(|puppet| own(puppet, area))
        .collect::<Result<_>>()?;
    let key = |at: usize| format!("v-{}-{:x}", who[at].pid, area.start);
    let mut want = BTreeSet::new();
    let mut svg = BTreeSet::new();
    for (at, id) in ids.iter().enumerate() {
        want.insert(format!("anon_vma a-{id} ×1"));
        want.insert(format!("vma {} ×1", key(at)));
        svg.extend([format!("a-{id}"), key(at)]);
    }
    for (from, to, class) in [
        (0, 0, "own"),
        (1, 1, "own"),
        (2, 2, "own"),
        (3, 3, "own"),
        (1, 0, "avc"),
        (2, 0, "avc"),
        (2, 1, "avc"),
        (3, 0, "avc"),
    ] {
        want.insert(format!("{class} {} -> a-{} ×1", key(from), ids[to]));
        svg.insert(format!("l-{}-{:x}-{}", who[from].pid, area.start, ids[to]));
    }
    for (from, to) in [(1, 0), (2, 1), (3, 0)] {
        want.insert(format!("parent a-{} -> a-{} ×1", ids[from], ids[to]));
        svg.insert(format!("p-{}", ids[from]));
    }
    // Whoever of them is asked, it is the same tree.
    for puppet in who {
        for all in [false, true] {
            let text = graph(puppet.pid, area, "dot", all)?;
            check_eq!(of_dot(&text), want, "nodes and edges for {}", puppet.pid);
            let text = graph(puppet.pid, area, "svg", all)?;
            let found: BTreeSet<String> = of_svg(&text).into_iter().map(String::from).collect();
            check_eq!(found, svg, "ids for {}", puppet.pid);
        }
    }
    Ok(())
}

fn alike_children_are_folded() -> Result<()> {
    let mut parent = Stage::new(8)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 5)?[0];
    let mut children = Vec::new();
    for _ in 0..7 {
        children.push(parent.fork()?);
    }
    children[0].set_comm(b"different")?;
    children[3].write(area.pages(0, 2))?;
    let root = own(&parent, area)?;
    let first = own(&children[0], area)?;
    let second = own(&children[1], area)?;
    let key = |pid: Pid| format!("v-{pid}-{:x}", area.start);
    let (p, a, b) = (key(parent.pid), key(children[0].pid), key(children[1].pid));
    let want: BTreeSet<String> = [
        format!("anon_vma a-{root} ×1"),
        format!("anon_vma a-{first} ×1"),
        format!("anon_vma a-{second} ×6"),
        format!("vma {p} ×1"),
        format!("vma {a} ×1"),
        format!("vma {b} ×6"),
        format!("own {p} -> a-{root} ×1"),
        format!("own {a} -> a-{first} ×1"),
        format!("own {b} -> a-{second} ×6"),
        format!("avc {a} -> a-{root} ×1"),
        format!("avc {b} -> a-{root} ×6"),
        format!("parent a-{first} -> a-{root} ×1"),
        format!("parent a-{second} -> a-{root} ×6"),
    ]
    .into();
    let text = graph(parent.pid, area, "dot", false)?;
    check_eq!(of_dot(&text), want, "nodes and edges");
    check!(
        text.contains("0–2 pages its own"),
        "what they have of their own:\n{text}"
    );
    let all = of_dot(&graph(parent.pid, area, "dot", true)?);
    check_eq!(all.len(), 8 + 8 + 8 + 7 + 7, "nodes and edges of all");
    Ok(())
}
