//! The tree of processes beside the tree of anon_vmas: `lineage`, `anon_vma` and `cow` of one process,
//! joined.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Agreement, AnonVmaReport, CowReport, Error, Kin, LineageReport, MemberState, ProcessState,
    Relation, Role,
};

/// The processes around a process, and what the fork left them to share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Who they are.
    pub lineage: LineageReport,
    /// What each shares with the process asked for, itself left out; in the order of `lineage`.
    pub edges: Vec<Edge>,
    /// Inherited anon_vmas to which no VMA adds pages any more: who made them has exited, gone
    /// through exec(), or unmapped them.
    pub left_behind: u64,
    /// The process' own anon_vmas that an ancestor made: fork() takes over one that was left
    /// behind with one child.
    pub taken_over: u64,
    /// Processes in its own anon_vmas that stand neither above nor below it in `lineage`: their
    /// parents have exited, or an anon_vma was taken over from a common ancestor.
    pub strays: Vec<u32>,
    /// Nothing changed while the reports were made, and no bound cut them.
    pub whole: bool,
}

/// What a process shares with the one asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The process.
    pub pid: u32,
    /// Anon_vmas of the process asked for that it is in.
    pub anon_vmas: u64,
    /// Anonymous pages of the process asked for that it maps, too.
    pub pages: u64,
    /// Its descriptors of files that the process asked for has open, too.
    pub files: u64,
    /// Of these, sockets.
    pub sockets: u64,
    /// Whether the tree of anon_vmas says the same.
    pub agreement: Agreement,
    /// The process that went through exec(), where that is why; else 0.
    pub exec: u32,
}

impl Tree {
    /// Joins three reports on one process.
    pub fn new(lineage: LineageReport, anon: &AnonVmaReport, cow: &CowReport) -> Self {
        let itself = lineage.itself().map_or(0, |of| of.pid);
        let mut anon_vmas: BTreeMap<u32, u64> = BTreeMap::new();
        for group in anon.anon_vmas.values() {
            let live = group
                .member
                .iter()
                .filter(|of| of.state == MemberState::Live);
            for pid in live.map(|of| of.pid).collect::<BTreeSet<_>>() {
                *anon_vmas.entry(pid).or_default() += 1;
            }
        }
        let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
        for share in cow.vmas.iter().flat_map(|vma| &vma.shares) {
            let sum = pages.entry(share.pid).or_default();
            *sum = sum.saturating_add(share.pages);
        }
        let of = |map: &BTreeMap<u32, u64>, pid| map.get(&pid).copied().unwrap_or(0);
        let by_pid: BTreeMap<u32, &Kin> =
            lineage.processes.iter().map(|kin| (kin.pid, kin)).collect();
        let others = lineage.processes.iter().filter(|kin| kin.pid != itself);
        let edges = others
            .map(|kin| {
                let shared = kin.shared.clone();
                let anon_vmas = of(&anon_vmas, kin.pid);
                let (agreement, exec) = agreement(&by_pid, itself, kin, anon_vmas);
                Edge {
                    pid: kin.pid,
                    anon_vmas,
                    pages: of(&pages, kin.pid),
                    files: shared.as_ref().map_or(0, |shared| shared.files),
                    sockets: shared.as_ref().map_or(0, |shared| shared.sockets),
                    agreement,
                    exec,
                }
            })
            .collect();
        let own: BTreeSet<_> = anon.vmas.iter().map(|vma| vma.anon_vma).collect();
        let groups = || anon.anon_vmas.values();
        let in_own = || groups().filter(|group| own.contains(&group.id));
        let strays: BTreeSet<u32> = in_own()
            .flat_map(|group| &group.member)
            .filter(|of| of.relation == Relation::Unrelated && of.pid != itself)
            .map(|of| of.pid)
            .collect();
        let left_behind = groups().filter(|group| group.active_vmas == 0).count();
        let taken_over = in_own()
            .filter(|group| group.depth > 0)
            .filter(|group| {
                let mut members = group.member.iter();
                members.any(|of| of.relation == Relation::Ancestor)
            })
            .count();
        let pauses = [
            lineage.summary.moved,
            lineage.summary.cut,
            anon.summary.moved,
            anon.summary.cut,
            cow.summary.moved,
            cow.summary.cut,
        ];
        Self {
            edges,
            left_behind: left_behind as u64,
            taken_over: taken_over as u64,
            strays: strays.into_iter().collect(),
            whole: pauses.iter().all(|number| *number == 0),
            lineage,
        }
    }

    /// Parses a text of the three reports one after the other, in whatever order.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = rest
                .windows(8)
                .position(|bytes| bytes == b"\nreport ")
                .map_or(rest.len(), |at| at + 1);
            let (part, more) = rest.split_at(next);
            parts.push(part);
            rest = more;
        }
        let find = |name: &str| {
            let head = format!("report name={name} ");
            let part = parts.iter().find(|part| part.starts_with(head.as_bytes()));
            part.copied().unwrap_or_default()
        };
        Self::join(
            LineageReport::parse(find("lineage"))?,
            &AnonVmaReport::parse(find("anon_vma"))?,
            &CowReport::parse(find("cow"))?,
        )
    }

    /// Joins three reports, which must be of one process on one kernel.
    ///
    /// Fails with [`Error::Mismatch`] if they are not. A name may change between two reports; a pid and a kernel do
    /// not.
    pub fn join(
        lineage: LineageReport,
        anon: &AnonVmaReport,
        cow: &CowReport,
    ) -> Result<Self, Error> {
        let first = &lineage.header;
        for other in [&anon.header, &cow.header] {
            if other.pid != first.pid {
                return Err(Error::Mismatch(format!(
                    "`{}` is of pid {}, `{}` of pid {}",
                    first.name, first.pid, other.name, other.pid
                )));
            }
            if other.kernel != first.kernel {
                return Err(Error::Mismatch(format!(
                    "`{}` is from Linux {}, `{}` from Linux {}",
                    first.name,
                    first.kernel.visible(),
                    other.name,
                    other.kernel.visible()
                )));
            }
        }
        if lineage.itself().is_none_or(|of| of.pid != first.pid) {
            return Err(Error::Mismatch(format!(
                "`{}` of pid {} does not contain that process",
                first.name, first.pid
            )));
        }
        Ok(Self::new(lineage, anon, cow))
    }

    /// What a process shares.
    pub fn edge(&self, pid: u32) -> Option<&Edge> {
        self.edges.iter().find(|edge| edge.pid == pid)
    }
}

/// Why two processes share as many anon_vmas as they do, and who went through exec() if that is why.
fn agreement(
    by_pid: &BTreeMap<u32, &Kin>,
    itself: u32,
    kin: &Kin,
    anon_vmas: u64,
) -> (Agreement, u32) {
    let Some(&itself) = by_pid.get(&itself) else {
        return (Agreement::Unexplained, 0);
    };
    if kin.same_vm {
        return (Agreement::SameMemory, 0);
    }
    if kin.state != ProcessState::Live {
        return (Agreement::Exited, 0);
    }
    if anon_vmas > 0 {
        return (Agreement::Agrees, 0);
    }
    let (upper, mut lower) = match kin.role {
        Role::Ancestor => (kin, itself),
        Role::Descendant => (itself, kin),
        _ => return (Agreement::Unexplained, 0),
    };
    // Each fork on the way, from below; what a process had before its exec() its children never saw.
    for _ in 0..kin.generation {
        if lower.exec {
            return (Agreement::Exec, lower.pid);
        }
        if lower.parent == upper.pid {
            break;
        }
        match by_pid.get(&lower.parent) {
            Some(&parent) => lower = parent,
            None => break,
        }
    }
    if lower.born_ns < upper.born_ns {
        (Agreement::Adopted, 0)
    } else if upper.exec || upper.init || upper.subreaper {
        (Agreement::ExecOrAdopted, 0)
    } else {
        (Agreement::Unexplained, 0)
    }
}
