//! The picture as SVG: a file that needs nothing else, with an id for everything that is drawn.

use std::fmt::Write;

use ravel_records::visible;
use unicode_width::UnicodeWidthStr;

use super::layout::{self, Place};
use super::{Block, Graph, Panel, Process, Vma, span};

/// Width of a letter, about: fonts differ.
const LETTER: f64 = 7.4;
/// Height of a line of text.
const LINE: f64 = 16.0;
const BOX: f64 = 2.0 * LINE + 10.0;
/// Between an anon_vma and its VMAs.
const NECK: f64 = 34.0;
/// Between two VMAs of one anon_vma.
const STACK: f64 = 8.0;
/// Between rows.
const ROW: f64 = 56.0;
/// Around everything.
const EDGE: f64 = 20.0;
/// Left of the blocks, for the depths.
const MARGIN: f64 = 76.0;
/// Stops of a line on its way past other blocks.
const MOST_STOPS: usize = 64;
/// Processes that the legend names.
const NAMED: usize = 24;

/// Colours that can be told apart, also by the colour-blind: fill and line.
const COLOURS: [(&str, &str); 10] = [
    ("#cfe2f6", "#1f6fb4"),
    ("#fbdcc4", "#c65a00"),
    ("#cdebd9", "#0b7f4f"),
    ("#f3d3e4", "#a8407c"),
    ("#fdf0b8", "#8f7700"),
    ("#d3eef5", "#1687a0"),
    ("#e2d9f3", "#6a48a8"),
    ("#f8d0cd", "#b3302a"),
    ("#e0e8c4", "#62731a"),
    ("#e3dcd3", "#77604a"),
];

fn colour(process: usize) -> (&'static str, &'static str) {
    COLOURS[process % COLOURS.len()]
}

/// Text for an element, with nothing active in it: XML has no way to write most controls.
fn escape(text: &str) -> String {
    visible(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn wide(text: &str) -> f64 {
    text.width() as f64 * LETTER
}

/// What a box of an anon_vma says.
fn group_lines(block: &Block) -> [String; 2] {
    let role = match block.parent {
        None => " root",
        Some(_) => "",
    };
    [
        format!("{}{role}{}", block.label, times(block.count)),
        format!(
            "{}, {}",
            span(block.pages, "page", "pages"),
            span(block.members, "VMA", "VMAs")
        ),
    ]
}

fn times(count: usize) -> String {
    match count {
        1 => String::new(),
        count => format!(" ×{count}"),
    }
}

/// What a box of a VMA says.
fn vma_lines(vma: &Vma, block: &Block, processes: &[Process]) -> [String; 2] {
    let name = processes.get(vma.process).map_or("", |of| &of.name);
    [
        format!("{name} {}{}", vma.pid, times(block.count)),
        format!(
            "{}, {} own",
            span(vma.pages, "page", "pages"),
            span(vma.own, "", "").trim()
        ),
    ]
}

/// A block with the sizes of what is in it.
struct Sized {
    group: f64,
    vmas: f64,
    size: (f64, f64),
}

impl Sized {
    fn new(block: &Block, processes: &[Process]) -> Self {
        let widest = |lines: &[String]| lines.iter().map(|line| wide(line)).fold(0.0, f64::max);
        let group = widest(&group_lines(block)) + 20.0;
        let vmas = block.vmas.iter();
        let vmas = vmas
            .map(|vma| widest(&vma_lines(vma, block, processes)))
            .fold(0.0, f64::max);
        let vmas = if block.vmas.is_empty() {
            0.0
        } else {
            vmas + 20.0
        };
        let number = block.vmas.len().max(1) as f64;
        let neck = if block.vmas.is_empty() { 0.0 } else { NECK };
        Self {
            group,
            vmas,
            size: (group + neck + vmas, number * (BOX + STACK) - STACK),
        }
    }
}

/// The whole file.
pub fn write(graph: &Graph) -> String {
    let mut body = String::new();
    let mut y = EDGE + LINE;
    let mut width: f64 = wide(&graph.title) * 1.2;
    let _ = writeln!(
        body,
        "<text class=\"title\" x=\"{EDGE}\" y=\"{y}\">{}</text>",
        escape(&graph.title)
    );
    y += LINE;
    width = width.max(legend(&mut body, graph, &mut y));
    for (place, panel) in graph.panels.iter().enumerate() {
        width = width.max(draw(&mut body, panel, place, &graph.processes, &mut y));
    }
    let (width, height) = (width + 2.0 * EDGE, y + EDGE);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\">\n<title>{}</title>\n{STYLE}\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n",
        escape(&graph.title)
    )
}

const STYLE: &str = "<style>\n\
    text { font: 12px 'DejaVu Sans', Verdana, sans-serif; fill: #222; }\n\
    .title { font-size: 16px; font-weight: bold; }\n\
    .panel { font-size: 13px; font-weight: bold; }\n\
    .dim { fill: #777; }\n\
    .head { font-weight: bold; }\n\
    .anon_vma rect { fill: #f4f4f4; stroke: #555; stroke-width: 1.5; }\n\
    .vma rect { stroke-width: 1.5; }\n\
    .own { fill: none; stroke-width: 3; }\n\
    .avc { fill: none; stroke-width: 1.3; }\n\
    .parent { fill: none; stroke: #555; stroke-width: 1.2; stroke-dasharray: 5 4; }\n\
    </style>\n\
    <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
    orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" fill=\"#555\"/></marker></defs>\n";

/// The processes by colour, and what the shapes mean. Returns its width.
fn legend(body: &mut String, graph: &Graph, y: &mut f64) -> f64 {
    let (mut x, mut width) = (EDGE, 0.0f64);
    let named = graph.processes.iter().take(NAMED).enumerate();
    let rest = graph.processes.len().saturating_sub(NAMED);
    let rest = (rest > 0).then(|| (NAMED, format!("and {rest} more, in the same colours")));
    let entries = named.map(|(place, process)| {
        let words = format!("{} {}{}", process.name, process.pid, times(process.count));
        (place, words)
    });
    for (place, words) in entries.chain(rest) {
        let room = wide(&words) + 44.0;
        if x > EDGE && x + room > 1100.0 {
            x = EDGE;
            *y += LINE + 8.0;
        }
        if place < NAMED {
            let (fill, line) = colour(place);
            let top = *y;
            let _ = writeln!(
                body,
                "<rect x=\"{x}\" y=\"{top}\" width=\"18\" height=\"14\" rx=\"2\" fill=\"{fill}\" stroke=\"{line}\"/>"
            );
        }
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\">{}</text>",
            x + 24.0,
            *y + 12.0,
            escape(&words)
        );
        x += room;
        width = width.max(x);
    }
    *y += LINE + 16.0;
    let (top, middle) = (*y, *y + 8.0);
    let line = colour(0).1;
    let mut at = EDGE;
    let shapes = [
        (
            "anon_vma: pages in it, VMAs that a walk for one of them tries",
            format!(
                "<rect x=\"{at}\" y=\"{top}\" width=\"26\" height=\"16\" rx=\"6\" fill=\"#f4f4f4\" stroke=\"#555\"/>"
            ),
        ),
        (
            "VMA of a process: pages, and how many in its own anon_vma",
            format!(
                "<rect x=\"X\" y=\"{top}\" width=\"26\" height=\"16\" fill=\"{}\" stroke=\"{line}\"/>",
                colour(0).0
            ),
        ),
        (
            "its own",
            format!("<path class=\"own\" stroke=\"{line}\" d=\"MX {middle} h26\"/>"),
        ),
        (
            "inherited (each line is an anon_vma_chain)",
            format!("<path class=\"avc\" stroke=\"{line}\" d=\"MX {middle} h26\"/>"),
        ),
        (
            "parent",
            format!("<path class=\"parent\" marker-end=\"url(#tip)\" d=\"MX {middle} h26\"/>"),
        ),
    ];
    for (place, (words, shape)) in shapes.into_iter().enumerate() {
        if place == 2 {
            at = EDGE;
            *y += LINE + 8.0;
        }
        let shift = *y - top;
        let _ = writeln!(
            body,
            "<g transform=\"translate(0 {shift})\">{}<text class=\"dim\" x=\"{}\" y=\"{}\">{words}</text></g>",
            shape.replace('X', &at.to_string()),
            at + 34.0,
            top + 12.0
        );
        at += wide(words) + 56.0;
        width = width.max(at);
    }
    *y += LINE + 20.0;
    width
}

/// Draws a panel. Returns its width.
fn draw(body: &mut String, panel: &Panel, place: usize, processes: &[Process], y: &mut f64) -> f64 {
    let sized: Vec<Sized> = panel
        .blocks
        .iter()
        .map(|block| Sized::new(block, processes))
        .collect();
    let sizes: Vec<(f64, f64)> = sized.iter().map(|block| block.size).collect();
    let (places, width) = layout::places(panel, &sizes);
    let rows = places.iter().map(|place| place.row + 1).max().unwrap_or(0);
    let mut heights = vec![0.0f64; rows];
    for (place, size) in places.iter().zip(&sizes) {
        heights[place.row] = heights[place.row].max(size.1);
    }
    let titles = [vec![panel.title.clone()], alike(&panel.alike)].concat();
    let title = titles
        .iter()
        .map(|line| wide(line) * 1.1)
        .fold(0.0, f64::max);
    let width = (width + MARGIN + EDGE).max(title + EDGE);
    let _ = writeln!(body, "<g id=\"panel-{place}\">");
    for (number, line) in titles.iter().enumerate() {
        *y += LINE;
        let class = if number == 0 { "panel" } else { "dim" };
        let _ = writeln!(
            body,
            "<text class=\"{class}\" x=\"{EDGE}\" y=\"{y}\">{}</text>",
            escape(line)
        );
    }
    *y += 10.0;
    let mut tops = Vec::new();
    for (row, height) in heights.iter().enumerate() {
        let tint = if row % 2 == 0 { "#fafbfc" } else { "#eff2f6" };
        let tall = height + ROW;
        let _ = writeln!(
            body,
            "<rect x=\"{EDGE}\" y=\"{y}\" width=\"{width}\" height=\"{tall}\" fill=\"{tint}\"/>\
             <text class=\"dim\" x=\"{}\" y=\"{}\">depth {row}</text>",
            EDGE + 8.0,
            *y + tall / 2.0 + 4.0
        );
        tops.push(*y + ROW / 2.0);
        *y += tall;
    }
    let drawing = Drawing {
        panel,
        sized: &sized,
        places: &places,
        heights: &heights,
        tops: &tops,
        processes,
    };
    drawing.edges(body);
    drawing.blocks(body);
    body.push_str("</g>\n");
    *y += 24.0;
    width
}

/// The lines that name other panels that look the same.
fn alike(titles: &[String]) -> Vec<String> {
    const FEW: usize = 6;
    let mut lines: Vec<String> = titles
        .iter()
        .take(FEW)
        .map(|title| format!("likewise: {title}"))
        .collect();
    if titles.len() > FEW {
        lines.push(format!("and {} more", titles.len() - FEW));
    }
    lines
}

struct Drawing<'g> {
    panel: &'g Panel,
    sized: &'g [Sized],
    places: &'g [Place],
    heights: &'g [f64],
    tops: &'g [f64],
    processes: &'g [Process],
}

impl Drawing<'_> {
    /// Left edge of a block and the middle of its row.
    fn corner(&self, at: usize) -> (f64, f64) {
        let place = self.places[at];
        let x = EDGE + MARGIN + place.x - self.sized[at].size.0 / 2.0;
        (x, self.tops[place.row] + self.heights[place.row] / 2.0)
    }

    /// Left and top of an anon_vma's box.
    fn group(&self, at: usize) -> (f64, f64) {
        let (x, middle) = self.corner(at);
        (x, middle - BOX / 2.0)
    }

    /// Where the boxes in a block's row end.
    fn floor(&self, at: usize) -> f64 {
        let row = self.places[at].row;
        self.tops[row] + self.heights[row]
    }

    /// Left and top of a VMA's box.
    fn vma(&self, at: usize, number: usize) -> (f64, f64) {
        let (x, middle) = self.corner(at);
        let sized = &self.sized[at];
        let top = middle - sized.size.1 / 2.0 + number as f64 * (BOX + STACK);
        (x + sized.group + NECK, top)
    }

    fn edges(&self, body: &mut String) {
        for (at, block) in self.panel.blocks.iter().enumerate() {
            if let Some(parent) = block.parent {
                let (x, y) = self.group(at);
                let (px, py) = self.group(parent);
                let (x, px) = (
                    x + self.sized[at].group / 2.0,
                    px + self.sized[parent].group / 2.0,
                );
                let path = curve((x, y), &[(px, py + BOX), (px, self.floor(parent))]);
                let _ = writeln!(
                    body,
                    "<path id=\"p-{}\" class=\"parent\" data-count=\"{}\" marker-end=\"url(#tip)\" \
                     d=\"{path}\"/>",
                    block.id, block.count
                );
            }
            for (number, vma) in block.vmas.iter().enumerate() {
                for link in &vma.links {
                    self.link(body, at, number, *link);
                }
            }
        }
    }

    /// The line of an anon_vma_chain.
    fn link(&self, body: &mut String, at: usize, number: usize, to: usize) {
        let block = &self.panel.blocks[at];
        let vma = &block.vmas[number];
        let (x, y) = self.vma(at, number);
        let (gx, gy) = self.group(to);
        let wide = self.sized[to].group;
        let line = colour(vma.process).1;
        let (class, path) = if to == at {
            let (from, middle) = (gx + wide, gy + BOX / 2.0);
            let y = y + BOX / 2.0;
            let bend = NECK / 2.0;
            let path = format!(
                "M{x:.1} {y:.1} C{:.1} {y:.1} {:.1} {middle:.1} {from:.1} {middle:.1}",
                x - bend,
                from + bend
            );
            ("own", path)
        } else {
            // To the right part of the lower edge, where no parent's line ends; past each block between
            // the two through its neck, where nothing is hidden.
            let end = gx + wide * 0.82;
            let mut stops = vec![(end, gy + BOX), (end, self.floor(to))];
            let mut between = block.parent;
            while let Some(passed) = between.filter(|passed| *passed != to) {
                // A line past that many cannot be followed anyway.
                if stops.len() > MOST_STOPS {
                    stops.truncate(2);
                    break;
                }
                let (left, _) = self.corner(passed);
                let neck = left + self.sized[passed].group + NECK * 0.6;
                let row = self.places[passed].row;
                let (top, tall) = (self.tops[row], self.heights[row]);
                stops.splice(2..2, [(neck, top), (neck, top + tall)]);
                between = self.panel.blocks[passed].parent;
            }
            ("avc", curve((x + 14.0, y), &stops))
        };
        let _ = writeln!(
            body,
            "<path id=\"l-{}-{:x}-{}\" class=\"{class}\" data-count=\"{}\" stroke=\"{line}\" d=\"{path}\"/>",
            vma.pid, vma.start.0, self.panel.blocks[to].id, block.count
        );
    }

    fn blocks(&self, body: &mut String) {
        for (at, block) in self.panel.blocks.iter().enumerate() {
            let (x, y) = self.group(at);
            let _ = writeln!(
                body,
                "<g id=\"a-{}\" class=\"anon_vma\" data-depth=\"{}\" data-count=\"{}\"><title>anon_vma {}</title>",
                block.id, block.depth, block.count, block.id
            );
            let wide = self.sized[at].group;
            boxed(
                body,
                (x, y),
                wide,
                9.0,
                "",
                block.count,
                &group_lines(block),
            );
            body.push_str("</g>\n");
            for (number, vma) in block.vmas.iter().enumerate() {
                let place = self.vma(at, number);
                let (fill, line) = colour(vma.process);
                let _ = writeln!(
                    body,
                    "<g id=\"{}\" class=\"vma\" data-count=\"{}\"><title>{:x}-{:x} of pid {}</title>",
                    vma.key(),
                    block.count,
                    vma.start.0,
                    vma.end.0,
                    vma.pid
                );
                let style = format!(" fill=\"{fill}\" stroke=\"{line}\"");
                let lines = vma_lines(vma, block, self.processes);
                boxed(
                    body,
                    place,
                    self.sized[at].vmas,
                    2.0,
                    &style,
                    block.count,
                    &lines,
                );
                body.push_str("</g>\n");
            }
        }
    }
}

/// A line from below to the first of the stops, by way of the others, that leaves and comes to each
/// upright.
fn curve(from: (f64, f64), stops: &[(f64, f64)]) -> String {
    let mut path = format!("M{:.1} {:.1}", from.0, from.1);
    let (mut x, mut y) = from;
    for (next, above) in stops.iter().rev() {
        // No way at all would have no direction, and an arrow's tip needs one.
        if (x - next).abs() < 0.5 && (y - above).abs() < 0.5 {
            continue;
        }
        let bend = (y - above) * 0.5;
        let _ = write!(
            path,
            " C{x:.1} {:.1} {next:.1} {:.1} {next:.1} {above:.1}",
            y - bend,
            above + bend
        );
        (x, y) = (*next, *above);
    }
    path
}

/// A box with two lines; several behind each other where it stands for several.
fn boxed(
    body: &mut String,
    (x, y): (f64, f64),
    width: f64,
    round: f64,
    style: &str,
    count: usize,
    lines: &[String; 2],
) {
    for behind in (0..count.min(3)).rev() {
        let shift = 4.0 * behind as f64;
        let _ = writeln!(
            body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{BOX}\" rx=\"{round}\"{style}/>",
            x + shift,
            y + shift
        );
    }
    for (number, (line, class)) in lines.iter().zip(["head", "dim"]).enumerate() {
        let _ = writeln!(
            body,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 10.0,
            y + 17.0 + number as f64 * LINE,
            escape(line)
        );
    }
}
