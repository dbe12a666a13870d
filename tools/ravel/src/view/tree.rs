//! `ravel tree`: the processes above and below, and what each shares.

use std::collections::BTreeMap;
use std::fmt::Write;

use ravel_records::{Agreement, Edge, Kin, Namespaces, ProcessState, Role, Tree};

use super::{left_out, subject};
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, plain, size};

/// Children of one process that are shown unless all are asked for.
const FEW: usize = 8;
/// Threads that are named unless all are asked for.
const THREADS: usize = 8;
/// Generations below the process that are drawn; the module tells no more.
const DEEPEST: usize = 1024;
/// Bytes in a page.
const PAGE: u64 = 4096;

/// Draws the tree.
pub fn draw(tree: &Tree, all: bool, screen: &Screen) -> String {
    let mut children: BTreeMap<u32, Vec<&Kin>> = BTreeMap::new();
    for kin in &tree.lineage.processes {
        if kin.role == Role::Descendant {
            children.entry(kin.parent).or_default().push(kin);
        }
    }
    let mut drawing = Drawing {
        tree,
        children,
        edges: tree.edges.iter().map(|edge| (edge.pid, edge)).collect(),
        all,
        screen,
        text: subject(&tree.lineage.header),
    };
    drawing.summary();
    drawing.sentences();
    drawing.text.push('\n');
    drawing.ancestors();
    drawing.others();
    drawing.text
}

struct Drawing<'t> {
    tree: &'t Tree,
    all: bool,
    screen: &'t Screen,
    /// The descendants below each process that has some.
    children: BTreeMap<u32, Vec<&'t Kin>>,
    edges: BTreeMap<u32, &'t Edge>,
    text: String,
}

impl Drawing<'_> {
    /// The ancestors from the top, the process itself, and those below it.
    fn ancestors(&mut self) {
        let processes = &self.tree.lineage.processes;
        let mut above: Vec<&Kin> = processes
            .iter()
            .filter(|kin| kin.role == Role::Ancestor)
            .collect();
        above.sort_by_key(|kin| std::cmp::Reverse(kin.generation));
        let mut indent = String::new();
        for (depth, kin) in above
            .into_iter()
            .chain(self.tree.lineage.itself())
            .enumerate()
        {
            let branch = if depth == 0 { "" } else { "└─ " };
            self.line(&format!("{indent}{branch}"), kin);
            if depth > 0 {
                indent.push_str("   ");
            }
            if kin.role == Role::Self_ {
                self.threads(&indent);
                self.below(kin.pid, &indent, 0);
            }
        }
    }

    fn below(&mut self, pid: u32, indent: &str, depth: usize) {
        if depth == DEEPEST {
            return;
        }
        // Taken out: a report that somebody changed may have circles.
        let Some(children) = self.children.remove(&pid) else {
            return;
        };
        let shown = match self.all || children.len() <= FEW {
            true => children.len(),
            false => FEW - 1,
        };
        for (place, child) in children.iter().take(shown).enumerate() {
            let last = place + 1 == children.len();
            let (branch, under) = if last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            self.line(&format!("{indent}{branch}"), child);
            self.below(child.pid, &format!("{indent}{under}"), depth + 1);
        }
        let hidden = (children.len() - shown) as u64;
        if hidden > 0 {
            let more = count(hidden, "more child", "more children");
            let _ = writeln!(self.text, "{indent}└─ {DIM}{more} (--all){DIM:#}");
        }
    }

    fn others(&mut self) {
        let processes = &self.tree.lineage.processes;
        for kin in processes.iter().filter(|kin| kin.role == Role::Unrelated) {
            self.line("beside it: ", kin);
        }
    }

    fn line(&mut self, before: &str, kin: &Kin) {
        let style = match kin.role {
            Role::Self_ => STRONG,
            _ => anstyle::Style::new(),
        };
        let comm = plain(&kin.comm);
        let pid = kin.pid;
        let plain_line = format!("{before}{pid}  {comm}");
        let _ = write!(
            self.text,
            "{before}{style}{pid}{style:#}  {NAME}{comm}{NAME:#}"
        );
        let mut said = remarks(kin, self.tree.lineage.itself());
        if let Some(edge) = self.edges.get(&kin.pid) {
            said.extend(shares(edge, kin));
        }
        if !said.is_empty() {
            let said = said.join(", ");
            let used = unicode_width::UnicodeWidthStr::width(plain_line.as_str()) + 2;
            let room = self
                .screen
                .width
                .map_or(usize::MAX, |width| width.saturating_sub(used).max(40));
            let mut at = 0;
            for (place, word) in said.split(' ').enumerate() {
                let width = unicode_width::UnicodeWidthStr::width(word);
                if place == 0 {
                    self.text.push_str("  ");
                } else if at + 1 + width > room {
                    let _ = write!(self.text, "\n{}", " ".repeat(used));
                    at = 0;
                } else {
                    self.text.push(' ');
                    at += 1;
                }
                self.text.push_str(word);
                at += width;
            }
        }
        self.text.push('\n');
    }

    fn threads(&mut self, indent: &str) {
        let threads = &self.tree.lineage.threads;
        if threads.len() < 2 {
            return;
        }
        let shown = if self.all { threads.len() } else { THREADS };
        let names: Vec<String> = threads
            .iter()
            .take(shown)
            .map(|thread| format!("{} {}", thread.tid, plain(&thread.comm)))
            .collect();
        let more = match threads.len().saturating_sub(shown) {
            0 => String::new(),
            more => format!(", {more} more (--all)"),
        };
        let _ = writeln!(
            self.text,
            "{indent}{DIM}threads: {}{more}{DIM:#}",
            names.join(", ")
        );
    }

    /// Where the tree of anon_vmas and that of processes do not say the same.
    fn sentences(&mut self) {
        let tree = self.tree;
        let itself = tree.lineage.header.pid;
        let mut agree = 0;
        let mut apart: BTreeMap<(u8, String), Vec<u32>> = BTreeMap::new();
        for kin in &tree.lineage.processes {
            let Some(edge) = self.edges.get(&kin.pid) else {
                continue;
            };
            if edge.agreement == Agreement::Agrees {
                agree += 1;
            }
            if let Some(why) = why(edge, kin, itself) {
                apart.entry((place(kin), why)).or_default().push(kin.pid);
            }
        }
        for ((place, why), pids) in &apart {
            let many = pids.len() > 1;
            let (place, share) = match many {
                false => (PLACES[usize::from(*place)].0, "shares"),
                true => (PLACES[usize::from(*place)].1, "share"),
            };
            let _ = writeln!(
                self.text,
                "{} ({place}) {share} no anon_vma with {itself}: {why}.",
                list(pids, self.all)
            );
        }
        if agree > 0 {
            let number = count(agree, "process", "processes");
            let _ = writeln!(
                self.text,
                "{itself} shares anon_vmas with {number} here, as fork() left them."
            );
        }
        if tree.left_behind > 0 {
            let number = count(
                tree.left_behind,
                "inherited anon_vma",
                "inherited anon_vmas",
            );
            let _ = writeln!(
                self.text,
                "{number} of {itself} get no new pages: their owners have exited, called exec() or unmapped them."
            );
        }
        if tree.taken_over > 0 {
            let number = count(tree.taken_over, "anon_vma", "anon_vmas");
            let _ = writeln!(
                self.text,
                "{number} of {itself}'s own were an ancestor's: fork() reused them, so the tree of anon_vmas is flatter than that of processes."
            );
        }
        if !tree.strays.is_empty() {
            let _ = writeln!(
                self.text,
                "{NOTE}In {itself}'s own anon_vmas, yet neither above nor below it: {}. Their parents have exited, or an anon_vma was taken over.{NOTE:#}",
                list(&tree.strays, self.all)
            );
        }
    }

    /// What the process shares, and with how many.
    fn summary(&mut self) {
        let summary = &self.tree.lineage.summary;
        let edges = &self.tree.edges;
        let sharing = edges
            .iter()
            .filter(|edge| edge.anon_vmas > 0 || edge.pages > 0)
            .count() as u64;
        let most = edges
            .iter()
            .max_by_key(|edge| edge.pages)
            .filter(|edge| edge.pages > 0);
        let _ = match most {
            Some(edge) => writeln!(
                self.text,
                "  shares memory with {STRONG}{}{STRONG:#}: up to {}, with {}",
                count(sharing, "process", "processes"),
                size(edge.pages.saturating_mul(PAGE)),
                edge.pid
            ),
            None => writeln!(self.text, "  shares no anonymous page with its family"),
        };
        if self
            .tree
            .lineage
            .itself()
            .is_some_and(|of| of.state != ProcessState::Live)
        {
            let _ = writeln!(
                self.text,
                "{NOTE}Its main thread has exited; other threads go on.{NOTE:#}"
            );
        }
        let parts = [
            count(summary.ancestors, "ancestor", "ancestors"),
            count(summary.descendants, "descendant", "descendants"),
            count(summary.others, "other", "others"),
            count(summary.threads, "thread", "threads"),
            count(summary.fds, "descriptor", "descriptors"),
        ];
        let _ = writeln!(self.text, "{DIM}{}{DIM:#}", parts.join(", "));
        if !self.tree.whole {
            let _ = writeln!(
                self.text,
                "{NOTE}Processes started or exited meanwhile: numbers may not agree.{NOTE:#}"
            );
        }
        self.text.push_str(&left_out(summary.cut));
    }
}

/// What is to be said of a process by itself.
fn remarks(kin: &Kin, itself: Option<&Kin>) -> Vec<String> {
    let mut said = Vec::new();
    if kin.role == Role::Self_ {
        said.push("the process asked for".to_owned());
    }
    if kin.state != ProcessState::Live {
        said.push("exited".to_owned());
    }
    if kin.init {
        said.push("init".to_owned());
    }
    if kin.subreaper {
        said.push("subreaper".to_owned());
    }
    if kin.threads > 1 {
        said.push(format!("{} threads", kin.threads));
    }
    if kin.vfork {
        said.push("vfork: its parent waits".to_owned());
    }
    if kin.tracer != 0 {
        said.push(format!("traced by {}", kin.tracer));
    }
    if kin.ns_pid != kin.pid {
        said.push(format!("pid {} in its namespace", kin.ns_pid));
    }
    let other = itself.filter(|itself| itself.pid != kin.pid);
    if let Some(itself) = other.filter(|_| kin.state == ProcessState::Live) {
        let names = namespaces(&kin.namespaces, &itself.namespaces);
        if !names.is_empty() {
            said.push(format!("other namespaces: {}", names.join(" ")));
        }
    }
    said
}

/// The names of namespaces that are not the same.
fn namespaces(one: &Namespaces, other: &Namespaces) -> Vec<&'static str> {
    [
        ("cgroup", one.cgroup_ns, other.cgroup_ns),
        ("ipc", one.ipc_ns, other.ipc_ns),
        ("net", one.net_ns, other.net_ns),
        ("pid", one.pid_ns, other.pid_ns),
        ("time", one.time_ns, other.time_ns),
        ("user", one.user_ns, other.user_ns),
        ("uts", one.uts_ns, other.uts_ns),
    ]
    .into_iter()
    .filter(|(_, one, other)| one != other)
    .map(|(name, _, _)| name)
    .collect()
}

/// What a process shares with the one asked for.
fn shares(edge: &Edge, kin: &Kin) -> Vec<String> {
    let mut said = Vec::new();
    if kin.same_vm {
        said.push("the address space".to_owned());
    }
    if edge.anon_vmas > 0 && !kin.same_vm {
        said.push(count(edge.anon_vmas, "anon_vma", "anon_vmas"));
    }
    if edge.pages > 0 && !kin.same_vm {
        let bytes = size(edge.pages.saturating_mul(PAGE));
        said.push(format!("{bytes} of pages"));
    }
    if kin.same_files {
        said.push("the table of descriptors".to_owned());
    } else if edge.files > 0 {
        let files = count(edge.files, "file", "files");
        said.push(match edge.sockets {
            0 => files,
            sockets => format!("{files} ({})", count(sockets, "socket", "sockets")),
        });
    }
    if kin.same_fs {
        said.push("the working directory and umask".to_owned());
    }
    if !said.is_empty() {
        said[0] = format!("shares {}", said[0]);
    }
    said
}

/// What a process is to the one asked for: one, and many.
const PLACES: [(&str, &str); 4] = [
    ("parent", "parents"),
    ("ancestor", "ancestors"),
    ("child", "children"),
    ("descendant", "descendants"),
];

/// Which of [`PLACES`].
fn place(kin: &Kin) -> u8 {
    let near = kin.generation == 1;
    match (&kin.role, near) {
        (Role::Ancestor, true) => 0,
        (Role::Ancestor, false) => 1,
        (_, true) => 2,
        (_, false) => 3,
    }
}

/// Pids, the first few of them unless all are asked for.
fn list(pids: &[u32], all: bool) -> String {
    let shown = if all { pids.len() } else { FEW };
    let mut parts: Vec<String> = pids.iter().take(shown).map(u32::to_string).collect();
    if pids.len() > shown {
        parts.push(format!("{} more", pids.len() - shown));
    }
    match parts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => parts.concat(),
    }
}

/// Why the anon_vmas do not show what the tree of processes does; none where they do.
fn why(edge: &Edge, kin: &Kin, itself: u32) -> Option<String> {
    let upper = match kin.role {
        Role::Ancestor => kin.pid,
        Role::Descendant => itself,
        _ => return None,
    };
    Some(match edge.agreement {
        Agreement::Agrees | Agreement::SameMemory => return None,
        Agreement::Exited => "exited, with no memory left".to_owned(),
        Agreement::Exec if edge.exec == kin.pid => "new memory by exec()".to_owned(),
        Agreement::Exec => format!("exec() gave {} new memory", edge.exec),
        Agreement::Adopted => format!("{upper} is younger, and adopted an orphan"),
        Agreement::ExecOrAdopted => {
            format!("{upper} went through exec() after the fork, or did not fork but adopt")
        }
        Agreement::Unexplained => "all that they shared may be unmapped".to_owned(),
        Agreement::Other(ref word) => word.clone(),
    })
}
