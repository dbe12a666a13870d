//! `ravel cow`: how much private memory is shared, and with whom; then the mappings.

use std::fmt::Write;

use ravel_records::{Cow, MemberState, PageCounts, Share};

use super::listing::{Cell, Column, Listing, Row};
use super::{kinds, left_out, passing, pid, range, rank, subject, widest};
use crate::cli;
use crate::command::Failure;
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, pad, plain, size, split};
use crate::shared::{Report, With};

/// Sharers of one mapping that are shown unless all are asked for.
const FEW: usize = 4;
/// Mappings that are shown unless more are asked for.
const MAPPINGS: usize = 8;
/// Groups of other processes, likewise.
const GROUPS: usize = 5;
/// Bytes in a page.
const PAGE: u64 = 4096;

const COLUMNS: [Column; 13] = [
    Column::numbers("ANON"),
    Column::numbers("PRIVATE"),
    Column::numbers("SHARED"),
    Column::numbers("WRITTEN").spare(1),
    Column::numbers("INHERITED").spare(1),
    Column::numbers("UNKNOWN").hidden(),
    Column::numbers("SIZE").spare(2),
    Column::numbers("HUGE").hidden(),
    Column::numbers("SWAP").hidden(),
    Column::numbers("FILE").hidden(),
    Column::words("PERM").spare(3),
    Column::words("RANGE").hidden(),
    Column::words("MAPPING").path(),
];

/// The place of a column.
const RANGE: usize = 11;

/// A number of pages in KiB, exactly: what is in columns adds up.
fn kib(pages: u64) -> Cell {
    Cell::number(pages, format!("{}K", u128::from(pages) * 4))
}

fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE)
}

/// Whether a mapping holds memory that only private mappings have.
fn holds_private(counts: &PageCounts) -> bool {
    let private = [counts.anon, counts.ksm, counts.swap, counts.migration];
    private.iter().any(|number| *number > 0)
}

/// Draws the report.
pub fn draw(report: &Report, args: &cli::Cow, screen: &Screen) -> Result<String, Failure> {
    let all: Vec<&Cow> = report.cow.vmas.iter().collect();
    let sums = sum(all.iter().map(|vma| &vma.pages));
    let mut text = conclusion(report, &sums);
    text.push_str(&sharers(report, args.rows.all));
    let shown = all
        .iter()
        .copied()
        .filter(|vma| args.rows.all || holds_private(&vma.pages) || vma.moved > 0);
    if args.vmas || args.rows.all {
        text.push('\n');
        text.push_str(&mappings(shown, args.rows.all));
        text.push_str(&legend());
        return Ok(text);
    }
    let mut shown: Vec<&Cow> = shown.collect();
    shown.sort_by_key(|vma| (std::cmp::Reverse(vma.pages.anon), vma.start));
    if shown.is_empty() {
        return Ok(text);
    }
    let mut listing = Listing::new(&COLUMNS, MAPPINGS);
    for vma in &shown {
        let note = match vma.moved {
            0 => String::new(),
            _ => format!("{NOTE}changed while it was read{NOTE:#}"),
        };
        let mut cells = numbers(&vma.pages, vma.size());
        cells.push(Cell::new(&vma.perms));
        cells.push(Cell::new(range(vma.start, vma.end)));
        cells.push(Cell::styled(name(vma), NAME));
        listing.add(cells, note);
    }
    let whole = (
        sums,
        all.iter()
            .map(|vma| vma.size())
            .fold(0, u64::saturating_add),
    );
    text.push('\n');
    let table = listing.draw(&args.rows, screen, |hidden| {
        totals(hidden, &shown, &all, &whole)
    })?;
    text.push_str(&table);
    let _ = writeln!(
        text,
        "{DIM}More: --vmas, --all, --top N, --sort COLUMN, --columns.{DIM:#}"
    );
    Ok(text)
}

/// The rows for what is not shown, and for everything.
fn totals(hidden: &[Row], shown: &[&Cow], all: &[&Cow], whole: &(PageCounts, u64)) -> Vec<Row> {
    let blank = || [Cell::default(), Cell::default()];
    let row = |pages: &PageCounts, size: u64, name: String| {
        let mut cells = numbers(pages, size);
        cells.extend(blank());
        cells.push(Cell::new(name));
        Row {
            cells,
            note: String::new(),
        }
    };
    // The ranges of hidden rows identify them.
    let ranges: Vec<&str> = hidden.iter().map(|row| row.cells[RANGE].text()).collect();
    let left: Vec<&Cow> = all
        .iter()
        .copied()
        .filter(|vma| {
            let is_row = shown.iter().any(|other| other.start == vma.start);
            !is_row || ranges.contains(&range(vma.start, vma.end).as_str())
        })
        .collect();
    let mut rows = Vec::new();
    if !left.is_empty() {
        let pages = sum(left.iter().map(|vma| &vma.pages));
        let size = left
            .iter()
            .map(|vma| vma.size())
            .fold(0, u64::saturating_add);
        rows.push(row(&pages, size, format!("+{} more", left.len())));
    }
    rows.push(row(&whole.0, whole.1, "TOTAL".to_owned()));
    rows
}

fn numbers(pages: &PageCounts, size: u64) -> Vec<Cell> {
    let counts = [
        pages.anon,
        pages.exclusive,
        pages.shared,
        pages.own,
        pages.inherited,
        pages.unknown.unwrap_or(0),
        size / PAGE,
        pages.huge,
        pages.swap,
        pages.file,
    ];
    counts.into_iter().map(kib).collect()
}

fn sum<'c>(counts: impl Iterator<Item = &'c PageCounts>) -> PageCounts {
    let mut sum = PageCounts::default();
    counts.for_each(|counts| sum.add(counts));
    sum
}

fn name(vma: &Cow) -> String {
    match plain(&vma.name) {
        name if name.is_empty() => "anonymous".to_owned(),
        name => name,
    }
}

/// The answer in three lines.
fn conclusion(report: &Report, sums: &PageCounts) -> String {
    let counts = &report.cow.summary;
    let parts = split(&[bytes(sums.exclusive), bytes(sums.shared)]);
    let (anon, private, shared) = (&parts[0], &parts[1], &parts[2]);
    let mut text = format!(
        "{}  anonymous {STRONG}{anon}{STRONG:#} = {private} private + {STRONG}{shared}{STRONG:#} shared\n",
        subject(&report.cow.header)
    );
    let unknown = sums.unknown.unwrap_or(0);
    if sums.inherited > 0 || unknown > 0 {
        let parts = split(&[bytes(sums.own), bytes(sums.inherited), bytes(unknown)]);
        let _ = write!(
            text,
            "since fork: {} written or copied here, {} inherited",
            parts[1], parts[2]
        );
        if unknown > 0 {
            let _ = write!(
                text,
                ", {} of either kind (fork() reused an anon_vma)",
                parts[3]
            );
        }
        text.push('\n');
    }
    let rest = rest(sums);
    if !rest.is_empty() {
        let _ = writeln!(text, "also: {rest}");
    }
    if counts.public > 0 || counts.hugetlb > 0 {
        let mut left = Vec::new();
        for (number, what) in [(counts.public, "shared"), (counts.hugetlb, "hugetlbfs")] {
            if number > 0 {
                left.push(count(number, what, what));
            }
        }
        let _ = writeln!(
            text,
            "{DIM}not counted: {} mappings{DIM:#}",
            left.join(", ")
        );
    }
    if counts.moved > 0 {
        let times = count(counts.moved, "mapping", "mappings");
        let _ = writeln!(
            text,
            "{NOTE}{times} changed while the module paused: numbers there are incomplete.{NOTE:#}"
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}

/// What else private mappings contain.
fn rest(counts: &PageCounts) -> String {
    let parts: Vec<String> = [
        ("in huge pages", counts.huge),
        ("of files, not copied", counts.file),
        ("of the zero page", counts.zero),
        ("merged by KSM", counts.ksm),
        ("swapped", counts.swap),
        ("in migration", counts.migration),
        ("of other kinds", counts.other),
    ]
    .into_iter()
    .filter(|(_, number)| *number > 0)
    .map(|(word, number)| format!("{} {word}", size(bytes(number))))
    .collect();
    parts.join(", ")
}

/// The other processes, those with the most pages first.
fn sharers(report: &Report, all: bool) -> String {
    let groups = report.groups();
    if groups.is_empty() {
        return "No page is shared with another process.\n".to_owned();
    }
    let shown = match all || groups.len() == GROUPS + 1 {
        true => groups.len(),
        false => GROUPS.min(groups.len()),
    };
    let sizes: Vec<String> = groups
        .iter()
        .map(|group| size(bytes(group.pages)))
        .collect();
    let wide = widest(sizes.iter().cloned()).max("SHARED".len());
    let mut text = format!("{STRONG}{:<wide$}  WITH{STRONG:#}\n", "SHARED");
    for (group, size) in groups.iter().zip(&sizes).take(shown) {
        let _ = writeln!(text, "{size:>wide$}  {}", words(group));
    }
    if groups.len() > shown {
        let left: usize = groups[shown..]
            .iter()
            .map(|group| group.pids.len().max(1))
            .sum();
        let _ = writeln!(
            text,
            "{DIM}+{} (--all){DIM:#}",
            count(left as u64, "more address space", "more address spaces")
        );
    }
    text
}

/// Processes of one name that share the same amount.
fn words(group: &With) -> String {
    let comm = plain(&group.comm);
    match group.state {
        MemberState::Live => {}
        ref state => {
            let name = if comm.is_empty() {
                String::new()
            } else {
                format!("{NAME}{comm}{NAME:#}, ")
            };
            return format!(
                "{name}an address space that is{NOTE}{}{NOTE:#}",
                passing(state).replace("  ", " ")
            );
        }
    }
    let pids: Vec<String> = group.pids.iter().take(6).map(u32::to_string).collect();
    let more = match group.pids.len().saturating_sub(6) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (kin, each) = match group.pids.len() {
        1 => (group.kin.one(), ""),
        _ => (group.kin.many(), ", each"),
    };
    format!(
        "{NAME}{comm}{NAME:#} {}{more}, {kin}{each}",
        pids.join(", ")
    )
}

/// Each mapping with everyone who shares it.
fn mappings<'c>(shown: impl Iterator<Item = &'c Cow>, all: bool) -> String {
    let mut text = String::new();
    for vma in shown {
        let pages = &vma.pages;
        let _ = writeln!(
            text,
            "{STRONG}{}{STRONG:#}  {}  {NAME}{}{NAME:#}",
            range(vma.start, vma.end),
            vma.perms,
            name(vma)
        );
        let _ = writeln!(
            text,
            "    {}K of {}K: {}K private, {}K shared; {}K written, {}K inherited",
            pages.anon.saturating_mul(4),
            vma.size() / 1024,
            pages.exclusive.saturating_mul(4),
            pages.shared.saturating_mul(4),
            pages.own.saturating_mul(4),
            pages.inherited.saturating_mul(4)
        );
        if let Some(unknown @ 1..) = pages.unknown {
            let _ = writeln!(
                text,
                "    {}K written or inherited: fork() reused an anon_vma",
                unknown.saturating_mul(4)
            );
        }
        let rest = rest(pages);
        if !rest.is_empty() {
            let _ = writeln!(text, "    {DIM}also: {rest}{DIM:#}");
        }
        let mut shares: Vec<&Share> = vma.shares.iter().collect();
        shares.sort_by_key(|share| (rank(&share.relation), share.pid, share.mm));
        let few = match all {
            true => shares.len(),
            false => FEW.min(shares.len()),
        };
        let comms = widest(shares.iter().map(|share| plain(&share.comm)));
        let (shown, folded) = shares.split_at(few);
        for share in shown {
            let _ = writeln!(
                text,
                "    {:>7}K with {:<10}  {:>7}  {NAME}{}{NAME:#}{NOTE}{}{NOTE:#}",
                share.pages.saturating_mul(4),
                share.relation.as_str(),
                pid(share.pid),
                pad(&plain(&share.comm), comms).trim_end(),
                passing(&share.state),
            );
        }
        if !folded.is_empty() {
            let kinds = kinds(folded.iter().map(|share| &share.relation));
            let most = folded.iter().map(|share| share.pages).max().unwrap_or(0);
            let _ = writeln!(
                text,
                "    {DIM}+{} more ({kinds}), up to {}K each{DIM:#}",
                folded.len(),
                most.saturating_mul(4)
            );
        }
        if vma.moved > 0 {
            let _ = writeln!(text, "    {NOTE}changed while it was read{NOTE:#}");
        }
    }
    text
}

fn legend() -> String {
    format!(
        "{DIM}private: mapped once. shared: mapped by other address spaces, too. written: first written or copied by this \
         process. inherited: from before a fork.{DIM:#}\n"
    )
}
