//! `ravel page`: what stands at each address, and below it who maps the page.

use std::fmt::Write;

use comfy_table::{Cell, Row};
use ravel_records::{Mapper, Page, PageKind, PageReport};

use super::table::{Column, dim, lines, note, table};
use super::{heading, kinds, left_out, passing, pid, rank, widest};
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, pad, plain};

/// Mappers of one page that are shown unless all are asked for.
const FEW: usize = 8;
/// Bytes in a page.
const PAGE: u64 = 4096;

const COLUMNS: [(&str, Column); 10] = [
    ("ADDRESS", Column::Left),
    ("PAGES", Column::Right),
    ("KIND", Column::Left),
    ("PFN", Column::Right),
    ("FOLIO", Column::Left),
    ("INDEX", Column::Right),
    ("BITS", Column::Left),
    ("MAPPED", Column::Right),
    ("VISITED", Column::Right),
    ("FLAGS", Column::Name),
];

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Every page by itself, and every mapper.
    pub all: bool,
    /// The module's ids.
    pub ids: bool,
}

/// Draws the report.
pub fn draw(report: &PageReport, options: &Options, screen: &Screen) -> String {
    let mut text = heading("pages", &report.header);
    let groups = groups(&report.pages, options.all);
    if !groups.is_empty() {
        text.push('\n');
        let mut table = table(screen, &COLUMNS);
        for group in &groups {
            table.add_row(row(group));
        }
        // The mappers stand below their row, which may take several lines.
        let rows = rows(&lines(&table, 0), &groups);
        let comms = widest(
            report
                .pages
                .iter()
                .flat_map(|page| &page.mappers)
                .map(|mapper| plain(&mapper.comm)),
        );
        let (head, rows) = rows
            .split_first()
            .map_or(("", &[][..]), |(head, rows)| (head.as_str(), rows));
        text.push_str(head);
        for (group, row) in groups.iter().zip(rows) {
            text.push_str(row);
            below(&mut text, group, options, comms);
        }
    }
    text.push('\n');
    text.push_str(&summary(report));
    text
}

/// Pages in a row that differ in nothing but their place.
fn groups(pages: &[Page], all: bool) -> Vec<&[Page]> {
    pages.chunk_by(|a, b| !all && continues(a, b)).collect()
}

fn continues(a: &Page, b: &Page) -> bool {
    let what = |page: &Page| {
        (
            (page.kind.clone(), page.order, page.mapping),
            (page.exclusive, page.huge, page.writable),
            (page.dirty, page.accessed, page.walked, page.moved),
            (page.mapcount, page.visited, page.found, page.swap_type),
        )
    };
    let mapper = |page: &Page, mapper: &Mapper| {
        (
            (mapper.mm, mapper.at.0.wrapping_sub(page.address.0)),
            (mapper.writable, mapper.dirty, mapper.accessed),
        )
    };
    let mappers = || {
        let theirs = b.mappers.iter().map(|other| mapper(b, other));
        a.mappers.iter().map(|other| mapper(a, other)).eq(theirs)
    };
    let same_folio = a.order == 0 || b.place == a.place + 1;
    b.address.0 == a.address.0.wrapping_add(PAGE)
        && what(a) == what(b)
        && a.flags == b.flags
        && same_folio
        && mappers()
}

/// The table's lines, by row; the first is the head.
fn rows(lines: &str, groups: &[&[Page]]) -> Vec<String> {
    let mut starts = groups
        .iter()
        .map(|group| format!("{:x} ", group[0].address.0))
        .peekable();
    let mut rows = vec![String::new()];
    for line in lines.lines() {
        if starts.next_if(|start| line.starts_with(start)).is_some() {
            rows.push(String::new());
        }
        if let Some(row) = rows.last_mut() {
            row.push_str(line);
            row.push('\n');
        }
    }
    rows
}

fn row(group: &[Page]) -> Row {
    let page = &group[0];
    let last = &group[group.len() - 1];
    let size = 1u64.checked_shl(page.order as u32).unwrap_or(0);
    let folio = match (page.order, group.len()) {
        (0, _) => dim("-"),
        (_, 1) => Cell::new(format!("{} of {size}", page.place)),
        _ => Cell::new(format!("{}-{} of {size}", page.place, last.place)),
    };
    let in_a_row = group
        .windows(2)
        .all(|pair| pair[1].pfn == pair[0].pfn.wrapping_add(1));
    let pfn = match (page.pfn, group.len()) {
        (0, _) => dim("-"),
        (pfn, 1) => Cell::new(pfn),
        (pfn, _) if in_a_row => Cell::new(format!("{pfn}-{}", last.pfn)),
        (pfn, _) if last.pfn == pfn => Cell::new(pfn),
        (pfn, _) => Cell::new(format!("{pfn}, …")),
    };
    let mapped = match (page.moved, page.mapcount) {
        (true, mapcount) => note(format!("{} of {mapcount}", page.found)),
        (false, 0) => dim("-"),
        (false, mapcount) => Cell::new(mapcount),
    };
    let kind = match (&page.kind, page.swap_type, page.swap_offset) {
        (PageKind::Swap, Some(device), Some(slot)) => format!("swap {device}:{slot}"),
        (kind, _, _) if page.huge => format!("{kind}, huge"),
        (kind, _, _) => kind.to_string(),
    };
    let is_page = !page.mapping.is_none();
    Row::from(vec![
        Cell::new(format!("{:x}", page.address.0)),
        Cell::new(group.len()),
        Cell::new(kind),
        pfn,
        folio,
        match is_page {
            true => Cell::new(page.index),
            false => dim("-"),
        },
        Cell::new(bits(
            page.writable,
            page.dirty,
            page.accessed,
            page.exclusive,
        )),
        mapped,
        match page.walked {
            true => Cell::new(page.visited),
            false => dim("-"),
        },
        match page.flags.as_str() {
            "none" => dim("-"),
            flags => Cell::new(flags.replace(',', " ")),
        },
    ])
}

/// The bits of an entry as letters.
fn bits(writable: bool, dirty: bool, accessed: bool, exclusive: bool) -> String {
    [
        (writable, 'w'),
        (dirty, 'd'),
        (accessed, 'a'),
        (exclusive, 'x'),
    ]
    .iter()
    .map(|(set, letter)| if *set { *letter } else { '-' })
    .collect()
}

fn below(text: &mut String, group: &[Page], options: &Options, comms: usize) {
    let page = &group[0];
    if options.ids && !page.mapping.is_none() {
        let _ = writeln!(text, "    {DIM}mapping {}{DIM:#}", page.mapping);
    }
    let mut mappers: Vec<&Mapper> = page.mappers.iter().collect();
    mappers.sort_by_key(|mapper| (rank(&mapper.relation), mapper.pid, mapper.mm, mapper.at));
    let few = match options.all {
        true => mappers.len(),
        false => FEW.min(mappers.len()),
    };
    let (shown, folded) = mappers.split_at(few);
    for mapper in shown {
        let place = match mapper.at == page.address {
            true => "same address".to_owned(),
            false => format!("at {:x}", mapper.at.0),
        };
        let _ = writeln!(
            text,
            "    {:<10}  {:>7}  {NAME}{}{NAME:#}  {}  {DIM}{place}{DIM:#}{NOTE}{}{NOTE:#}",
            mapper.relation.as_str(),
            pid(mapper.pid),
            pad(&plain(&mapper.comm), comms),
            &bits(mapper.writable, mapper.dirty, mapper.accessed, false)[..3],
            passing(&mapper.state),
        );
    }
    if !folded.is_empty() {
        let kinds = kinds(folded.iter().map(|mapper| &mapper.relation));
        let _ = writeln!(text, "    {DIM}+{} more ({kinds}){DIM:#}", folded.len());
    }
}

/// The last lines: the counts.
fn summary(report: &PageReport) -> String {
    let counts = &report.summary;
    let mut text = format!(
        "{STRONG}{}{STRONG:#} and {}",
        count(counts.pages, "page", "pages"),
        count(counts.empty, "empty entry", "empty entries")
    );
    for (number, what) in [
        (counts.unmapped, "in no mapping"),
        (counts.hugetlb, "of hugetlbfs, which are not read"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    let mappers = count(counts.mappers, "mapper", "mappers");
    let _ = writeln!(text, "; {mappers} of the pages.");
    if counts.pages > 0 {
        let _ = writeln!(
            text,
            "{DIM}BITS: writable, dirty, accessed, PageAnonExclusive. MAPPED: entries that map the page, anywhere. \
             VISITED: VMAs that could.{DIM:#}"
        );
    }
    if counts.moved > 0 {
        let pages = count(counts.moved, "page was", "pages were");
        let _ = writeln!(
            text,
            "{NOTE}{pages} being mapped or unmapped meanwhile: what is found is not all.{NOTE:#}"
        );
    }
    text.push_str(&left_out(counts.cut));
    text
}
