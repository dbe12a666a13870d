//! `ravel anon`: who else is in the anon_vmas of a process; then the VMAs with their chains.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ravel_records::{AnonVma, AnonVmaReport, Hex, Id, Member, Relation, Text, Vma};

use super::listing::{Cell, Column, Listing};
use super::{kinds, left_out, passing, pid, range, rank, subject, widest};
use crate::cli;
use crate::command::Failure;
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, pad, plain, size};
use crate::shared::Kin;

/// Members of one anon_vma that are shown unless all are asked for.
const FEW: usize = 8;
/// Other processes that the first line names.
const NAMED: usize = 5;
/// Mappings that are shown unless more are asked for.
const MAPPINGS: usize = 10;

const COLUMNS: [Column; 7] = [
    Column::numbers("MEMBERS"),
    Column::numbers("ANON_VMAS"),
    Column::numbers("DEPTH").spare(1),
    Column::numbers("SIZE"),
    Column::words("PERM").spare(3),
    Column::words("RANGE").spare(2),
    Column::words("MAPPING").path(),
];

/// Draws the report: the answer and the mappings with the most members, or all chains.
pub fn draw(report: &AnonVmaReport, args: &cli::Anon, screen: &Screen) -> Result<String, Failure> {
    let mut text = conclusion(report);
    if report.vmas.is_empty() {
        return Ok(text);
    }
    text.push('\n');
    if args.vmas || args.ids || args.rows.all {
        text.push_str(&chains(report, args, screen));
        return Ok(text);
    }
    let mut listing = Listing::new(&COLUMNS, MAPPINGS);
    let mut vmas: Vec<(&Vma, u64)> = report
        .vmas
        .iter()
        .map(|vma| {
            let members = report.chain(vma).iter().map(|group| group.members).sum();
            (vma, members)
        })
        .collect();
    vmas.sort_by_key(|(vma, members)| {
        (
            std::cmp::Reverse(*members),
            std::cmp::Reverse(vma.size()),
            vma.start,
        )
    });
    for (vma, members) in vmas {
        let chain = report.chain(vma);
        let depth = chain.iter().map(|group| group.depth).max().unwrap_or(0);
        listing.add(
            vec![
                Cell::number(members, members.to_string()),
                Cell::number(vma.chain, vma.chain.to_string()),
                Cell::number(depth, depth.to_string()),
                Cell::number(vma.size(), size(vma.size())),
                Cell::new(&vma.perms),
                Cell::new(range(vma.start, vma.end)),
                Cell::styled(name(vma), NAME),
            ],
            String::new(),
        );
    }
    text.push_str(&listing.draw(&args.rows, screen, |_| Vec::new())?);
    let _ = writeln!(
        text,
        "{DIM}MEMBERS: VMAs, in whatever process, that the kernel visits to find who maps one of the pages. \
         More: --vmas, --all, --ids.{DIM:#}"
    );
    Ok(text)
}

fn name(vma: &Vma) -> String {
    match plain(&vma.name) {
        name if name.is_empty() => "anonymous".to_owned(),
        name => name,
    }
}

/// Every chain, from the root down.
fn chains(report: &AnonVmaReport, options: &cli::Anon, screen: &Screen) -> String {
    let mut text = String::new();
    let drawing = Drawing {
        report,
        options,
        screen,
        labels: labels(report),
        sizes: widest(report.vmas.iter().map(|vma| size(vma.size()))),
        keys: widest(report.vmas.iter().map(|vma| vma.anon_pgoff.to_string())),
        comms: widest(
            report
                .anon_vmas
                .values()
                .flat_map(|group| &group.member)
                .map(|member| plain(&member.comm)),
        ),
    };
    let mut drawn = BTreeMap::new();
    for (place, vma) in report.vmas.iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        drawing.vma(&mut text, vma);
        drawing.chain(&mut text, vma, &mut drawn);
    }
    text
}

/// Short names, A1 and on, in the order in which the groups are drawn.
fn labels(report: &AnonVmaReport) -> BTreeMap<Id, String> {
    let mut labels = BTreeMap::new();
    for vma in &report.vmas {
        for group in report.chain(vma) {
            let next = labels.len() + 1;
            labels.entry(group.id).or_insert(format!("A{next}"));
        }
    }
    labels
}

/// Everything that the lines of one drawing share.
struct Drawing<'a> {
    report: &'a AnonVmaReport,
    options: &'a cli::Anon,
    screen: &'a Screen,
    labels: BTreeMap<Id, String>,
    sizes: usize,
    keys: usize,
    comms: usize,
}

impl Drawing<'_> {
    fn vma(&self, text: &mut String, vma: &Vma) {
        let range = range(vma.start, vma.end);
        let (perms, key) = (&vma.perms, vma.anon_pgoff);
        let bytes = size(vma.size());
        let name = name(vma);
        // Two spaces between columns, and `key `.
        let used = range.len() + perms.len() + self.sizes + self.keys + 12;
        let name = self.screen.fit(&name, used);
        let _ = writeln!(
            text,
            "{STRONG}{range}{STRONG:#}  {perms}  {bytes:>sizes$}  {DIM}key {key}{DIM:#}{fill}  {NAME}{name}{NAME:#}",
            sizes = self.sizes,
            fill = " ".repeat(self.keys.saturating_sub(key.to_string().len())),
        );
    }

    /// A VMA's chain; `drawn` has the groups that stand higher up, and where.
    fn chain(&self, text: &mut String, vma: &Vma, drawn: &mut BTreeMap<Id, Hex>) {
        let chain = self.report.chain(vma);
        let lost = vma.avcs.len().saturating_sub(chain.len());
        let mut above: Option<&AnonVma> = None;
        for (place, group) in chain.iter().enumerate() {
            let last = place + 1 == chain.len() && lost == 0;
            let (branch, trunk) = if last {
                ("└─", "  ")
            } else {
                ("├─", "│ ")
            };
            let _ = write!(text, "{branch} {}", self.group(group, vma));
            if above.is_some_and(|above| above.id != group.parent) {
                let parent = self.labels.get(&group.parent);
                let parent = parent.map_or("not in this report", String::as_str);
                let _ = write!(text, "  {NOTE}parent {parent}{NOTE:#}");
            }
            above = Some(group);
            if let Some(place) = drawn.get(&group.id) {
                let _ = writeln!(text, "  {DIM}(members above, at {:x}){DIM:#}", place.0);
                continue;
            }
            drawn.insert(group.id, vma.start);
            text.push('\n');
            self.members(text, group, vma, trunk);
        }
        if lost > 0 {
            let lost = count(lost as u64, "anon_vma", "anon_vmas");
            let _ = writeln!(
                text,
                "└─ {NOTE}{lost} changed while the report was made{NOTE:#}"
            );
        }
    }

    fn group(&self, group: &AnonVma, vma: &Vma) -> String {
        let wide = self.labels.len().to_string().len() + 1;
        let label = self.labels.get(&group.id).map_or("?", String::as_str);
        let label = pad(label, wide);
        let id = match self.options.ids {
            true => format!(" {}", group.id),
            false => String::new(),
        };
        let role = match (group.id == group.root, group.id == vma.anon_vma) {
            (true, true) => "root, own",
            (true, false) => "root",
            (false, true) => "own",
            (false, false) => "",
        };
        format!(
            "{STRONG}{label}{STRONG:#}{DIM}{id}{DIM:#}  {role:<9}  depth {:<2}  children {:<3}  \
             active VMAs {:<3}  refs {:<3}  members {}",
            group.depth, group.children, group.active_vmas, group.refcount, group.members
        )
    }

    fn members(&self, text: &mut String, group: &AnonVma, vma: &Vma, trunk: &str) {
        let mut members: Vec<&Member> = group.member.iter().collect();
        members.sort_by_key(|member| (rank(&member.relation), member.pid, member.mm, member.start));
        let few = match self.options.rows.all {
            true => members.len(),
            false => FEW.min(members.len()),
        };
        let (shown, folded) = members.split_at(few);
        for member in shown {
            let pid = pid(member.pid);
            let place = match (member.start, member.end) == (vma.start, vma.end) {
                true => "same range".to_owned(),
                false => range(member.start, member.end),
            };
            let state = passing(&member.state);
            let _ = writeln!(
                text,
                "{trunk}     {:<10}  {pid:>7}  {NAME}{}{NAME:#}  {DIM}{place}{DIM:#}{NOTE}{state}{NOTE:#}",
                member.relation.as_str(),
                pad(&plain(&member.comm), self.comms),
            );
        }
        if !folded.is_empty() {
            let more = folded.len();
            let kinds = kinds(folded.iter().map(|member| &member.relation));
            let _ = writeln!(text, "{trunk}     {DIM}+{more} more ({kinds}){DIM:#}");
        }
        let missing = group.members.saturating_sub(group.member.len() as u64);
        if missing > 0 {
            let missing = count(missing, "member", "members");
            let _ = writeln!(
                text,
                "{trunk}     {NOTE}{missing} not in the report{NOTE:#}"
            );
        }
    }
}

/// The answer: who else is there, and the counts.
fn conclusion(report: &AnonVmaReport) -> String {
    let counts = &report.summary;
    let members = || report.anon_vmas.values().flat_map(|group| &group.member);
    let others: BTreeMap<Id, (u32, &Text, &Relation)> = members()
        .filter(|member| member.relation != Relation::Self_ && member.pid != 0)
        .map(|member| (member.mm, (member.pid, &member.comm, &member.relation)))
        .collect();
    let passing: BTreeSet<Id> = members()
        .filter(|member| member.pid == 0)
        .map(|member| member.mm)
        .collect();
    let mut text = subject(&report.header);
    if others.is_empty() && passing.is_empty() {
        text.push_str("  no other process is in its anon_vmas\n");
    } else {
        let mut others: Vec<_> = others.into_values().collect();
        others.sort_by_key(|(pid, ..)| *pid);
        let named = others.iter().take(NAMED);
        let mut names: Vec<String> = named
            .map(|(pid, comm, relation)| {
                format!(
                    "{NAME}{}{NAME:#} {pid} ({})",
                    plain(comm),
                    Kin::of(relation).one()
                )
            })
            .collect();
        if others.len() > NAMED {
            names.push(format!("{} more", others.len() - NAMED));
        }
        if !passing.is_empty() {
            names.push(format!("{} being forked or exiting", passing.len()));
        }
        let number = (others.len() + passing.len()) as u64;
        let number = count(number, "other address space", "other address spaces");
        let _ = writeln!(
            text,
            "  in its anon_vmas: {STRONG}{number}{STRONG:#}: {}",
            names.join(", ")
        );
    }
    let _ = writeln!(
        text,
        "{} of {} have a chain: {} to {} with {}",
        counts.chained,
        count(counts.vmas, "VMA", "VMAs"),
        count(counts.avcs, "link", "links"),
        count(counts.anon_vmas, "anon_vma", "anon_vmas"),
        count(counts.members, "member", "members"),
    );
    if counts.moved > 0 {
        let places = count(counts.moved, "VMA or anon_vma", "VMAs or anon_vmas");
        let _ = writeln!(
            text,
            "{NOTE}{places} changed while the module paused: the report is incomplete there.{NOTE:#}"
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}
