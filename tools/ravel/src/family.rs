//! The reports `chains` of a process and of everyone who may share memory with it.

use std::collections::BTreeSet;

use ravel_records::client::Client;
use ravel_records::{ChainsReport, Error, Header, Id};

use crate::Failure;
use crate::proc::{Proc, is_initial_namespace};

/// A process, its descendants, and the others that are in its anon_vmas.
#[derive(Debug)]
pub struct Family {
    /// Their reports, one for each address space: first that of the process asked for, then by pid.
    pub reports: Vec<ChainsReport>,
    /// Address spaces in its anon_vmas that are not among them: being forked or exiting, or gone
    /// before they were asked.
    pub unread: u64,
}

impl Family {
    /// Asks the module for all of them. What has exited meanwhile is left out.
    pub fn ask(client: &Client, pid: u32) -> Result<Self, Failure> {
        let anon = client.anon_vma(pid)?;
        if !is_initial_namespace() {
            return Err(Failure::Namespace);
        }
        let asked = anon.header.pid;
        let members = || anon.anon_vmas.values().flat_map(|group| &group.member);
        let mut pids: BTreeSet<u32> = members().map(|member| member.pid).collect();
        pids.extend(Proc::default().descendants(asked).map_err(Failure::Proc)?);
        pids.remove(&asked);
        pids.remove(&0);
        let mut reports = vec![client.chains(asked)?];
        for pid in pids {
            match client.chains(pid) {
                Ok(report) => reports.push(report),
                Err(error) if error.errno() == Some("ESRCH") => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut family = Self::of(reports);
        let read: BTreeSet<Id> = family.reports.iter().map(|of| of.summary.mm).collect();
        let seen: BTreeSet<Id> = members().map(|member| member.mm).collect();
        family.unread = seen.difference(&read).count() as u64;
        Ok(family)
    }

    /// Reports that were saved, one behind the other.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        ChainsReport::parse_all(text).map(Self::of)
    }

    /// Processes with one address space (vfork, CLONE_VM) are listed once.
    fn of(mut reports: Vec<ChainsReport>) -> Self {
        let mut seen = BTreeSet::new();
        reports.retain(|report| seen.insert(report.summary.mm));
        Self { reports, unread: 0 }
    }

    /// The header of the process asked for.
    pub fn header(&self) -> Option<&Header> {
        self.reports.first().map(|report| &report.header)
    }

    /// Times that something was not found again after a pause of the module.
    pub fn moved(&self) -> u64 {
        self.reports
            .iter()
            .map(|report| report.summary.moved)
            .fold(0, u64::saturating_add)
    }
}
