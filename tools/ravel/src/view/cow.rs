//! `ravel cow`: a line for each private mapping, and below it with whom its pages are shared.

use std::collections::BTreeMap;
use std::fmt::Write;

use ravel_records::{Cow, CowReport, Id, PageCounts, Share};

use super::{heading, kinds, left_out, passing, pid, range, rank, widest};
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, pad, plain, size};

/// Sharers of one mapping that are shown unless all are asked for.
const FEW: usize = 4;
/// Other processes that the last lines name.
const NAMED: usize = 5;
/// Bytes in a page.
const PAGE: u64 = 4096;

/// The head of the columns between the permissions and the name.
const HEAD: [&str; 6] = ["SIZE", "PRESENT", "EXCLUSIVE", "SHARED", "OWN", "INHERITED"];

/// A number of pages, for people.
fn pages(number: u64) -> String {
    size(number.saturating_mul(PAGE))
}

/// Whether a mapping holds memory that only private mappings have.
fn holds_private(counts: &PageCounts) -> bool {
    let private = [counts.anon, counts.ksm, counts.swap, counts.migration];
    private.iter().any(|number| *number > 0)
}

/// Draws the report.
pub fn draw(report: &CowReport, all: bool, screen: &Screen) -> String {
    let mut text = heading("private memory", &report.header);
    let shown: Vec<&Cow> = report
        .vmas
        .iter()
        .filter(|vma| all || holds_private(&vma.pages) || vma.moved > 0)
        .collect();
    let cells: Vec<_> = shown
        .iter()
        .map(|vma| columns(vma.size(), &vma.pages))
        .collect();
    let whole = shown.iter().map(|vma| vma.size());
    let whole = columns(whole.fold(0, u64::saturating_add), &sum(&shown));
    let mut widths = [0; HEAD.len()];
    for (place, width) in widths.iter_mut().enumerate() {
        let column = cells.iter().chain([&whole]).map(|row| row[place].clone());
        *width = widest(column.chain([HEAD[place].to_owned()]));
    }
    let drawing = Drawing {
        all,
        screen,
        ranges: widest(shown.iter().map(|vma| range(vma.start, vma.end))).max("MAPPING".len()),
        widths,
        comms: widest(
            shown
                .iter()
                .flat_map(|vma| &vma.shares)
                .map(|share| plain(&share.comm)),
        ),
        sizes: widest(
            shown
                .iter()
                .flat_map(|vma| &vma.shares)
                .map(|share| pages(share.pages)),
        ),
    };
    if !shown.is_empty() {
        let head = HEAD.map(str::to_owned);
        let line = drawing.line("MAPPING", "PERM", &head);
        let _ = writeln!(text, "\n{STRONG}{line}  NAME{STRONG:#}");
        for (vma, cells) in shown.iter().zip(&cells) {
            drawing.vma(&mut text, vma, cells);
        }
        let _ = writeln!(
            text,
            "{STRONG}{}{STRONG:#}",
            drawing.line("TOTAL", "", &whole)
        );
    }
    text.push('\n');
    text.push_str(&summary(report, shown.len()));
    text
}

fn columns(bytes: u64, counts: &PageCounts) -> [String; HEAD.len()] {
    let number = |number| match number {
        0 => "-".to_owned(),
        number => pages(number),
    };
    [
        size(bytes),
        number(counts.present()),
        number(counts.exclusive),
        number(counts.shared),
        number(counts.own),
        number(counts.inherited),
    ]
}

/// The sums of those that are shown.
fn sum(vmas: &[&Cow]) -> PageCounts {
    let add = |of: fn(&PageCounts) -> u64| {
        let numbers = vmas.iter().map(|vma| of(&vma.pages));
        numbers.fold(0, u64::saturating_add)
    };
    PageCounts {
        anon: add(|counts| counts.anon),
        exclusive: add(|counts| counts.exclusive),
        shared: add(|counts| counts.shared),
        own: add(|counts| counts.own),
        inherited: add(|counts| counts.inherited),
        file: add(|counts| counts.file),
        zero: add(|counts| counts.zero),
        ksm: add(|counts| counts.ksm),
        ..PageCounts::default()
    }
}

/// Everything that the lines of one drawing share.
struct Drawing<'a> {
    all: bool,
    screen: &'a Screen,
    ranges: usize,
    widths: [usize; HEAD.len()],
    comms: usize,
    sizes: usize,
}

impl Drawing<'_> {
    fn line(&self, range: &str, perms: &str, cells: &[String]) -> String {
        let mut line = format!("{range:<wide$}  {perms:<4}", wide = self.ranges);
        for (cell, wide) in cells.iter().zip(self.widths) {
            let _ = write!(line, "  {cell:>wide$}");
        }
        line
    }

    fn vma(&self, text: &mut String, vma: &Cow, cells: &[String]) {
        let line = self.line(&range(vma.start, vma.end), &vma.perms, cells);
        let name = match plain(&vma.name) {
            name if name.is_empty() => "anonymous".to_owned(),
            name => name,
        };
        let name = self.screen.fit(&name, line.len() + 2);
        let _ = writeln!(text, "{line}  {NAME}{name}{NAME:#}");
        let rest = rest(&vma.pages);
        if !rest.is_empty() {
            let _ = writeln!(text, "    {DIM}of it {rest}{DIM:#}");
        }
        let mut shares: Vec<&Share> = vma.shares.iter().collect();
        shares.sort_by_key(|share| (rank(&share.relation), share.pid, share.mm));
        let few = match self.all {
            true => shares.len(),
            false => FEW.min(shares.len()),
        };
        let (shown, folded) = shares.split_at(few);
        for share in shown {
            let _ = writeln!(
                text,
                "    {:>sizes$} with {:<10}  {:>7}  {NAME}{}{NAME:#}{NOTE}{}{NOTE:#}",
                pages(share.pages),
                share.relation.as_str(),
                pid(share.pid),
                pad(&plain(&share.comm), self.comms).trim_end(),
                passing(&share.state),
                sizes = self.sizes,
            );
        }
        if !folded.is_empty() {
            let kinds = kinds(folded.iter().map(|share| &share.relation));
            let most = folded.iter().map(|share| share.pages).max().unwrap_or(0);
            let _ = writeln!(
                text,
                "    {DIM}+{} more ({kinds}), up to {} each{DIM:#}",
                folded.len(),
                pages(most)
            );
        }
        if vma.moved > 0 {
            let _ = writeln!(text, "    {NOTE}it changed while it was read{NOTE:#}");
        }
    }
}

/// What the columns do not tell.
fn rest(counts: &PageCounts) -> String {
    let parts: Vec<String> = [
        ("huge", counts.huge),
        ("the file's, not copied", counts.file),
        ("zero page", counts.zero),
        ("merged by KSM", counts.ksm),
        ("swapped", counts.swap),
        ("being moved", counts.migration),
        ("of other kinds", counts.other),
    ]
    .into_iter()
    .filter(|(_, number)| *number > 0)
    .map(|(word, number)| format!("{} {word}", pages(number)))
    .collect();
    parts.join(", ")
}

/// The last lines: what the whole process has, and with whom.
fn summary(report: &CowReport, shown: usize) -> String {
    let counts = &report.summary;
    let hidden = report.vmas.len() - shown;
    let mut text = format!(
        "{STRONG}{}{STRONG:#}, {} private",
        count(counts.vmas, "VMA", "VMAs"),
        counts.told
    );
    if hidden > 0 {
        let _ = write!(
            text,
            " ({hidden} with nothing of its own: --all shows them)"
        );
    }
    if counts.public > 0 {
        let _ = write!(text, ", {} shared", counts.public);
    }
    if counts.hugetlb > 0 {
        let _ = write!(text, ", {} of hugetlbfs", counts.hugetlb);
    }
    let sums = &counts.pages;
    let _ = writeln!(
        text,
        ".\nAnonymous: {STRONG}{}{STRONG:#}, {} exclusive, {} shared; {} first written or copied here, {} inherited.",
        pages(sums.anon),
        pages(sums.exclusive),
        pages(sums.shared),
        pages(sums.own),
        pages(sums.inherited)
    );
    let rest = rest(sums);
    if !rest.is_empty() {
        let _ = writeln!(text, "In all {rest}.");
    }
    text.push_str(&sharers(report));
    if counts.moved > 0 {
        let times = count(counts.moved, "place had", "places had");
        let _ = writeln!(
            text,
            "{NOTE}{times} changed when the module came back after a pause: numbers there are not whole.{NOTE:#}"
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}

/// The other processes, those with the most pages first.
fn sharers(report: &CowReport) -> String {
    let mut found: BTreeMap<Id, (u64, &Share)> = BTreeMap::new();
    for share in report.vmas.iter().flat_map(|vma| &vma.shares) {
        let entry = found.entry(share.mm).or_insert((0, share));
        entry.0 = entry.0.saturating_add(share.pages);
    }
    if found.is_empty() {
        return "No page is shared with another process.\n".to_owned();
    }
    let found = found.into_values();
    let (mut named, passing): (Vec<_>, Vec<_>) = found.partition(|(_, share)| share.pid != 0);
    named.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.pid.cmp(&b.1.pid)));
    let mut parts: Vec<String> = named
        .iter()
        .take(NAMED)
        .map(|(number, share)| {
            let (comm, relation) = (plain(&share.comm), &share.relation);
            let bytes = pages(*number);
            format!("{NAME}{comm}{NAME:#} {} ({relation}, {bytes})", share.pid)
        })
        .collect();
    if named.len() > NAMED {
        parts.push(format!("{} more", named.len() - NAMED));
    }
    if !passing.is_empty() {
        parts.push(format!("{} being forked or exiting", passing.len()));
    }
    let number = (named.len() + passing.len()) as u64;
    let number = count(number, "address space", "address spaces");
    format!("Shared with {number}: {}.\n", parts.join(", "))
}
