//! `ravel cost`: what one reverse-mapping walk costs, design by design and family by family.

use std::fmt::Write;

use comfy_table::Cell;

use super::table::{Column, dim, lines, table};
use super::{heading, range};
use crate::cost::{Cost, Design, Shared};
use crate::screen::{NOTE, STRONG, Screen, count, plain, size};

/// Families that are shown unless all are asked for.
const FEW: usize = 8;

/// Draws the answer.
pub fn draw(cost: &Cost, all: bool, screen: &Screen) -> String {
    let mut text = heading("reverse mapping", &cost.header);
    let _ = writeln!(
        text,
        "{STRONG}{}{STRONG:#}, {}, {} with a chain; {}, mapped {} times.\n",
        count(cost.processes, "address space", "address spaces"),
        count(cost.vmas, "VMA", "VMAs"),
        cost.chained,
        count(cost.pages, "anonymous page", "anonymous pages"),
        cost.entries
    );
    text.push_str(&designs(cost, screen));
    text.push('\n');
    let shown = match all {
        true => cost.families.len(),
        false => FEW.min(cost.families.len()),
    };
    if shown > 0 {
        text.push_str(&families(&cost.families[..shown], screen));
    }
    let hidden = cost.families.len() - shown;
    if hidden > 0 {
        let hidden = count(hidden as u64, "smaller family", "smaller families");
        let _ = writeln!(text, "and {hidden}: --all shows them.");
    }
    if cost.unread > 0 {
        let unread = count(cost.unread, "address space", "address spaces");
        let _ = writeln!(
            text,
            "{NOTE}{unread} in the same anon_vmas could not be read: being forked, exiting, or gone.{NOTE:#}"
        );
    }
    if cost.moved > 0 {
        let times = count(cost.moved, "place had", "places had");
        let _ = writeln!(
            text,
            "{NOTE}{times} changed when the module came back after a pause: numbers there are not whole.{NOTE:#}"
        );
    }
    text
}

/// A mean: whole numbers as they are, and otherwise two digits.
fn mean(value: f64) -> String {
    match value.fract() == 0.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.2}"),
    }
}

fn or_none(number: u64, text: String) -> Cell {
    match number {
        0 => dim("-"),
        _ => Cell::new(text),
    }
}

fn designs(cost: &Cost, screen: &Screen) -> String {
    let columns = [
        ("LINUX", Column::Left),
        ("DESIGN", Column::Name),
        ("VISITS", Column::Left),
        ("MEAN", Column::Right),
        ("WORST", Column::Right),
        ("OBJECTS", Column::Right),
        ("MEMORY", Column::Right),
        ("LOCKS", Column::Right),
        ("UNDER ONE", Column::Right),
    ];
    let mut drawn = table(screen, &columns);
    for design in &cost.designs {
        drawn.add_row([
            Cell::new(design.kernel),
            Cell::new(words(design)),
            Cell::new(unit(design)),
            Cell::new(mean(design.mean)),
            Cell::new(design.worst),
            or_none(design.objects, design.objects.to_string()),
            or_none(design.bytes, size(design.bytes)),
            Cell::new(design.locks),
            Cell::new(format!("{} {}", design.under_one, unit(design))),
        ]);
    }
    lines(&drawn, 0)
}

fn words(design: &Design) -> &'static str {
    match design.name {
        "scan" => "every VMA of all",
        "pte_chains" => "PTE chains",
        "anon_vma" => "one anon_vma a family",
        _ => "anon_vma_chain, now",
    }
}

fn unit(design: &Design) -> &'static str {
    match design.unit {
        "ptes" => "PTEs",
        _ => "VMAs",
    }
}

fn families(shown: &[Shared], screen: &Screen) -> String {
    let columns = [
        ("FAMILY OF", Column::Left),
        ("IN PID", Column::Right),
        ("PROCS", Column::Right),
        ("VMAS", Column::Right),
        ("ANON_VMAS", Column::Right),
        ("LINKS", Column::Right),
        ("DEPTH", Column::Right),
        ("PAGES", Column::Right),
        ("2.5", Column::Right),
        ("2.6.11", Column::Right),
        ("2.6.32", Column::Right),
        ("WORST", Column::Right),
        ("NAME", Column::Name),
    ];
    let mut drawn = table(screen, &columns);
    for family in shown {
        let name = plain(&family.name);
        let means = |value: f64| match family.pages {
            0 => dim("-"),
            _ => Cell::new(mean(value)),
        };
        drawn.add_row([
            Cell::new(range(family.start, family.end)),
            Cell::new(family.pid),
            Cell::new(family.processes),
            Cell::new(family.vmas),
            Cell::new(family.anon_vmas),
            Cell::new(family.links),
            Cell::new(family.depth),
            Cell::new(family.pages),
            means(family.ptes_mean),
            means(family.vmas as f64),
            means(family.avcs_mean),
            or_none(family.avcs_worst, family.avcs_worst.to_string()),
            match name.is_empty() {
                true => Cell::new("anonymous"),
                false => Cell::new(name),
            },
        ]);
    }
    lines(&drawn, 0)
}
