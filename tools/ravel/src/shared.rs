//! With whom a process shares memory: the report `cow`, and what the others are to it.

use std::collections::BTreeMap;

use ravel_records::client::Client;
use ravel_records::{CowReport, Id, MemberState, Relation, Text};
use serde::Serialize;

use crate::command::Failure;
use crate::proc::Proc;

/// What a process is to the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kin {
    /// Its parent.
    Parent,
    /// Above that.
    Ancestor,
    /// Its child.
    Child,
    /// Below one.
    Descendant,
    /// It has the same parent.
    Sibling,
    /// None of these.
    Other,
}

impl Kin {
    /// The word for one.
    pub fn one(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Ancestor => "ancestor",
            Self::Child => "child",
            Self::Descendant => "descendant",
            Self::Sibling => "sibling",
            Self::Other => "not related",
        }
    }

    /// The word for several.
    pub fn many(self) -> &'static str {
        match self {
            Self::Parent => "parents",
            Self::Ancestor => "ancestors",
            Self::Child => "children",
            Self::Descendant => "descendants",
            Self::Sibling => "siblings",
            Self::Other => "not related",
        }
    }

    /// What the module reports.
    pub fn of(relation: &Relation) -> Self {
        match relation {
            Relation::Ancestor => Self::Ancestor,
            Relation::Descendant => Self::Descendant,
            _ => Self::Other,
        }
    }
}

/// What processes are to one of them, as /proc has it now; only what is known for sure.
pub fn kin(proc: &Proc, pid: u32) -> BTreeMap<u32, Kin> {
    let parents = proc.parents().unwrap_or_default();
    let own = parents.get(&pid).copied();
    let mut found = BTreeMap::new();
    for (other, parent) in &parents {
        let kin = match () {
            () if *other == pid => continue,
            () if Some(*other) == own => Kin::Parent,
            () if *parent == pid => Kin::Child,
            // All orphans are children of init.
            () if Some(*parent) == own && *parent > 1 => Kin::Sibling,
            () => continue,
        };
        found.insert(*other, kin);
    }
    found
}

/// A report `cow`, and what /proc adds to it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The module's.
    #[serde(flatten)]
    pub cow: CowReport,
    /// What other processes are to this one, by pid; null where a saved report is shown.
    pub kin: Option<BTreeMap<u32, Kin>>,
}

/// Processes that share the same amount of memory.
#[derive(Debug, PartialEq, Eq)]
pub struct With {
    /// Pages that each shares.
    pub pages: u64,
    /// What they are.
    pub kin: Kin,
    /// Their name.
    pub comm: Text,
    /// Whether they can be named.
    pub state: MemberState,
    /// Who they are; none if they cannot be named.
    pub pids: Vec<u32>,
}

impl Report {
    /// Asks for the report.
    pub fn ask(client: &Client, pid: u32) -> Result<Self, Failure> {
        let cow = client.cow(pid)?;
        let kin = kin(&Proc::default(), cow.header.pid);
        Ok(Self {
            cow,
            kin: Some(kin),
        })
    }

    /// The others, those that share the most first.
    pub fn groups(&self) -> Vec<With> {
        let mut sums: BTreeMap<Id, With> = BTreeMap::new();
        for share in self.cow.vmas.iter().flat_map(|vma| &vma.shares) {
            let with = sums.entry(share.mm).or_insert_with(|| {
                let known = self.kin.as_ref().and_then(|kin| kin.get(&share.pid));
                With {
                    pages: 0,
                    kin: known.copied().unwrap_or_else(|| Kin::of(&share.relation)),
                    comm: share.comm.clone(),
                    state: share.state.clone(),
                    pids: if share.pid == 0 {
                        Vec::new()
                    } else {
                        vec![share.pid]
                    },
                }
            });
            with.pages = with.pages.saturating_add(share.pages);
        }
        let mut all: Vec<With> = sums.into_values().collect();
        all.sort_by(|a, b| {
            let key = |with: &With| {
                (
                    std::cmp::Reverse(with.pages),
                    with.kin,
                    with.comm.clone(),
                    with.pids.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        let mut groups: Vec<With> = Vec::new();
        for with in all {
            match groups.last_mut() {
                Some(last)
                    if (last.pages, last.kin) == (with.pages, with.kin)
                        && last.comm == with.comm
                        && last.state == with.state
                        && !with.pids.is_empty() =>
                {
                    last.pids.extend(with.pids);
                }
                _ => groups.push(with),
            }
        }
        groups
    }
}
