//! The picture of a family of processes: VMAs, anon_vmas, and the links between them.
//!
//! The VMAs under one root make a panel. In it, an anon_vma stands beside the VMAs whose own it is: such a
//! block hangs below that of the anon_vma's parent. Blocks that look the same are drawn once, with a count.

pub mod dot;
mod layout;
pub mod svg;

use std::collections::{BTreeMap, BTreeSet};

use ravel_records::{Chain, ChainsReport, Hex, Id};

use crate::family::Family;
use crate::screen::{count, plain};

/// Alike blocks side by side that are drawn one by one; more are folded.
const FEW: usize = 3;
/// Alike blocks below one another, each the only child of the one above, that are drawn one by one; of more, the last is
/// drawn, and the others are folded.
const LONG: usize = 8;

/// What to draw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Fold nothing.
    pub all: bool,
    /// Only the panel with the mapping, of the process asked for, that holds this address.
    pub at: Option<u64>,
}

/// The whole picture.
#[derive(Debug)]
pub struct Graph {
    /// Its first line.
    pub title: String,
    /// The processes that are drawn.
    pub processes: Vec<Process>,
    /// The panels, those with the most VMAs first.
    pub panels: Vec<Panel>,
}

/// A process, or several that look the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid, of several that of the first.
    pub pid: u32,
    /// What it is called.
    pub name: String,
    /// How many there are.
    pub count: usize,
}

/// The VMAs under one root.
#[derive(Debug)]
pub struct Panel {
    /// The mapping's name and place.
    pub title: String,
    /// Other mappings whose panels would look the same.
    pub alike: Vec<String>,
    /// Its blocks, each behind that of its parent.
    pub blocks: Vec<Block>,
}

/// An anon_vma and the VMAs whose own it is; or several that look the same.
#[derive(Debug)]
pub struct Block {
    /// The anon_vma, of several the first.
    pub id: Id,
    /// A short name.
    pub label: String,
    /// The block that its parent is in.
    pub parent: Option<usize>,
    /// Steps to the root.
    pub depth: u64,
    /// How many blocks this stands for.
    pub count: usize,
    /// Pages in the anon_vma: of several the least and the most.
    pub pages: (u64, u64),
    /// VMAs that are linked to it, likewise.
    pub members: (u64, u64),
    /// VMAs.
    pub vmas: Vec<Vma>,
}

/// A VMA, or several.
#[derive(Debug)]
pub struct Vma {
    /// Whose, as a place among the processes.
    pub process: usize,
    /// Its pid, of several that of the first.
    pub pid: u32,
    /// Bounds.
    pub start: Hex,
    /// Likewise.
    pub end: Hex,
    /// Pages in it: the least and the most.
    pub pages: (u64, u64),
    /// Of these, in its own anon_vma.
    pub own: (u64, u64),
    /// Blocks whose anon_vmas it is linked to: its anon_vma_chains.
    pub links: Vec<usize>,
}

impl Vma {
    /// A name for it in the drawing.
    pub fn key(&self) -> String {
        format!("v-{}-{:x}", self.pid, self.start.0)
    }
}

/// An anon_vma as it is, before anything is folded.
#[derive(Default)]
struct Node<'a> {
    id: Id,
    depth: u64,
    vmas: Vec<(&'a ChainsReport, &'a Chain)>,
    children: Vec<Id>,
    members: u64,
    pages: f64,
}

/// Everything under one root.
struct Tree<'a> {
    root: Id,
    nodes: BTreeMap<Id, Node<'a>>,
}

/// Makes the picture of a family.
pub fn draw(family: &Family, options: &Options) -> Option<Graph> {
    let header = family.header()?;
    let mut trees = trees(&family.reports);
    if let Some(address) = options.at {
        let mut vmas = family.reports.first()?.vmas.iter();
        let root = vmas
            .find(|vma| (vma.start.0..vma.end.0).contains(&address))?
            .root;
        trees.retain(|tree| tree.root == root);
    }
    let mut graph = Graph {
        title: format!(
            "{} (pid {}): {} of {}, Linux {}",
            plain(&header.comm),
            header.pid,
            count(trees.len() as u64, "family of VMAs", "families of VMAs"),
            count(family.reports.len() as u64, "process", "processes"),
            plain(&header.kernel)
        ),
        processes: Vec::new(),
        panels: Vec::new(),
    };
    let mut shapes: BTreeMap<usize, usize> = BTreeMap::new();
    let mut known = Known::default();
    for tree in &trees {
        let title = tree.title();
        let shape = tree
            .shapes(&Shape::Family, &mut known)
            .get(&tree.root)
            .copied();
        let shape = shape.unwrap_or(usize::MAX);
        match shapes.get(&shape) {
            Some(panel) if !options.all => graph.panels[*panel].alike.push(title),
            _ => {
                shapes.insert(shape, graph.panels.len());
                let mut panel = Panel {
                    title,
                    alike: Vec::new(),
                    blocks: Vec::new(),
                };
                tree.draw(&mut panel, &mut graph.processes, options);
                graph.panels.push(panel);
            }
        }
    }
    Some(graph)
}

/// All trees: those with the most VMAs first, then those with the most pages.
fn trees(reports: &[ChainsReport]) -> Vec<Tree<'_>> {
    let mut trees: BTreeMap<Id, Tree> = BTreeMap::new();
    for report in reports {
        for vma in &report.vmas {
            let tree = trees.entry(vma.root).or_insert_with(|| Tree {
                root: vma.root,
                nodes: BTreeMap::new(),
            });
            tree.add(report, vma);
        }
    }
    let mut trees: Vec<Tree> = trees.into_values().collect();
    trees.iter_mut().for_each(Tree::connect);
    trees.retain(|tree| tree.nodes.contains_key(&tree.root));
    trees.sort_by_key(|tree| {
        let vmas: usize = tree.nodes.values().map(|node| node.vmas.len()).sum();
        let pages: f64 = tree.nodes.values().map(|node| node.pages).sum();
        let most = (usize::MAX - vmas, u64::MAX - pages.round() as u64);
        (
            most,
            tree.first()
                .map(|(report, vma)| (report.header.pid, vma.start)),
        )
    });
    trees
}

/// What must be equal for two to look the same.
enum Shape {
    /// Whole families: their processes and links, wherever their mappings are.
    Family,
    /// Siblings in one family: names and mappings, whatever their pids.
    Sibling,
}

impl<'a> Tree<'a> {
    fn add(&mut self, report: &'a ChainsReport, vma: &'a Chain) {
        for link in &vma.link {
            let node = self.nodes.entry(link.anon_vma).or_default();
            node.id = link.anon_vma;
            node.depth = link.depth;
            node.members += 1;
            if link.own {
                node.vmas.push((report, vma));
            }
        }
        for run in &vma.run {
            if let Some(node) = self.nodes.get_mut(&run.anon_vma) {
                node.pages += run.pages as f64 / run.mapcount.max(1) as f64;
            }
        }
    }

    /// Hangs each anon_vma under its parent; under the root, if that is none of ours.
    fn connect(&mut self) {
        let mut parents = BTreeMap::new();
        let vmas = self.nodes.values().flat_map(|node| &node.vmas);
        for link in vmas.flat_map(|(_, vma)| &vma.link) {
            parents.insert(link.anon_vma, link.parent);
        }
        for (id, parent) in parents {
            let parent = match self.nodes.contains_key(&parent) {
                true => parent,
                false => self.root,
            };
            // A parent is nearer to the root: what was read while it changed could make a circle.
            let depth = self.nodes.get(&id).map_or(0, |node| node.depth);
            if id == self.root {
                continue;
            }
            match self.nodes.get_mut(&parent) {
                Some(node) if node.depth < depth => node.children.push(id),
                _ => {
                    if let Some(root) = self.nodes.get_mut(&self.root) {
                        root.children.push(id);
                    }
                }
            }
        }
        let order: BTreeMap<Id, _> = self
            .nodes
            .keys()
            .map(|id| (*id, self.first_below(*id)))
            .collect();
        for node in self.nodes.values_mut() {
            node.vmas
                .sort_by_key(|(report, vma)| (report.header.pid, vma.start));
            node.children
                .sort_by_key(|id| (order.get(id).copied().flatten(), *id));
        }
    }

    fn first(&self) -> Option<(&'a ChainsReport, &'a Chain)> {
        let vmas = self.nodes.values().flat_map(|node| &node.vmas);
        vmas.min_by_key(|(report, vma)| (report.header.pid, vma.start))
            .copied()
    }

    /// The least pid and address of an anon_vma's own VMAs.
    fn first_below(&self, id: Id) -> Option<(u32, Hex)> {
        let vmas = self.nodes.get(&id)?.vmas.iter();
        vmas.map(|(report, vma)| (report.header.pid, vma.start))
            .min()
    }

    fn title(&self) -> String {
        let Some((report, vma)) = self.first() else {
            return "no VMA".to_owned();
        };
        let name = match plain(&vma.name) {
            name if name.is_empty() => "anonymous memory".to_owned(),
            name => name,
        };
        let (start, end) = (vma.start.0, vma.end.0);
        format!("{name}  {start:x}-{end:x} of pid {}", report.header.pid)
    }

    /// A number for each anon_vma, equal for those that look the same with all below them. From the leaves up, so that
    /// each is looked at once.
    fn shapes(&self, of: &Shape, known: &mut Known) -> BTreeMap<Id, usize> {
        let mut order: Vec<&Node> = self.nodes.values().collect();
        // Children are deeper than their parents, apart from those that were hung under the root.
        order.sort_by_key(|node| (node.id == self.root, std::cmp::Reverse(node.depth)));
        let mut shapes: BTreeMap<Id, usize> = BTreeMap::new();
        for node in order {
            let mut text = format!("{}", node.depth);
            for (report, vma) in &node.vmas {
                let mut depths: Vec<u64> = vma.link.iter().map(|link| link.depth).collect();
                depths.sort_unstable();
                let whose = match of {
                    Shape::Family => report.header.pid.to_string(),
                    Shape::Sibling => looks(report, vma),
                };
                text.push_str(&format!(" {whose} {depths:?}"));
            }
            let below = node.children.iter().filter_map(|child| shapes.get(child));
            let mut below: Vec<usize> = below.copied().collect();
            below.sort_unstable();
            let shape = known.number((text, below));
            shapes.insert(node.id, shape);
        }
        shapes
    }

    /// The anon_vmas from one down, as long as each is the only child of the one above and looks like it.
    fn run(&self, from: Id) -> Vec<Id> {
        let mut run = vec![from];
        let Some(mut above) = self.nodes.get(&from) else {
            return run;
        };
        while let [child] = above.children[..] {
            let Some(node) = self.nodes.get(&child) else {
                break;
            };
            let looks_of = |node: &Node| -> Vec<String> {
                node.vmas
                    .iter()
                    .map(|(report, vma)| looks(report, vma))
                    .collect()
            };
            if looks_of(node) != looks_of(above) || run.len() > self.nodes.len() {
                break;
            }
            run.push(child);
            above = node;
        }
        run
    }

    /// Draws all blocks of the tree, each behind that of its parent.
    fn draw(&self, panel: &mut Panel, processes: &mut Vec<Process>, options: &Options) {
        let shapes = self.shapes(&Shape::Sibling, &mut Known::default());
        let mut places: BTreeMap<Id, usize> = BTreeMap::new();
        let mut open: Vec<(Vec<Id>, Option<usize>)> = vec![(vec![self.root], None)];
        while let Some((alike, parent)) = open.pop() {
            let here = panel.blocks.len();
            places.extend(alike.iter().map(|id| (*id, here)));
            let nodes: Vec<&Node> = alike.iter().filter_map(|id| self.nodes.get(id)).collect();
            let Some(block) = block(&nodes, here, parent, &places, processes) else {
                continue;
            };
            panel.blocks.push(block);
            // Those below all that look the same, by their looks.
            let mut groups: Vec<(usize, Vec<Id>)> = Vec::new();
            let mut found: BTreeMap<usize, usize> = BTreeMap::new();
            let children = nodes.iter().flat_map(|node| &node.children);
            for child in children.filter(|child| places.get(child) != Some(&here)) {
                let shape = shapes.get(child).copied().unwrap_or(usize::MAX);
                let at = *found.entry(shape).or_insert_with(|| {
                    groups.push((shape, Vec::new()));
                    groups.len() - 1
                });
                groups[at].1.push(*child);
            }
            let mut next = Vec::new();
            for (_, ids) in groups {
                // Where the parents are several, so must be those below.
                let one_by_one = nodes.len() == 1 && (options.all || ids.len() <= FEW);
                if !one_by_one {
                    next.push((ids, Some(here)));
                    continue;
                }
                for id in ids {
                    let mut run = vec![id];
                    if !options.all {
                        let long = self.run(id);
                        if long.len() > LONG {
                            run = long[..long.len() - 1].to_vec();
                        }
                    }
                    next.push((run, Some(here)));
                }
            }
            // The last one is taken first.
            open.extend(next.into_iter().rev());
        }
    }
}

/// A process' name and a mapping's place.
fn looks(report: &ChainsReport, vma: &Chain) -> String {
    format!("{} {} {}", plain(&report.header.comm), vma.start, vma.end)
}

/// A block for anon_vmas that look the same; `places` has theirs, and those of the blocks above.
fn block(
    nodes: &[&Node],
    here: usize,
    parent: Option<usize>,
    places: &BTreeMap<Id, usize>,
    processes: &mut Vec<Process>,
) -> Option<Block> {
    let first = nodes.first()?;
    let vmas = first.vmas.iter().enumerate();
    let vmas = vmas.map(|(at, (report, vma))| {
        let same: Vec<&Chain> = nodes
            .iter()
            .filter_map(|node| node.vmas.get(at).map(|(_, vma)| *vma))
            .collect();
        let own = |vma: &Chain| {
            let runs = vma.run.iter().filter(|run| run.anon_vma == vma.anon_vma);
            runs.map(|run| run.pages).sum()
        };
        let links = vma
            .link
            .iter()
            .filter_map(|link| places.get(&link.anon_vma));
        let links: BTreeSet<usize> = links.copied().collect();
        Vma {
            process: process(processes, report, nodes.len()),
            pid: report.header.pid,
            start: vma.start,
            end: vma.end,
            pages: range(
                same.iter()
                    .map(|vma| vma.run.iter().map(|run| run.pages).sum()),
            ),
            own: range(same.iter().map(|vma| own(vma))),
            links: links.into_iter().collect(),
        }
    });
    Some(Block {
        id: first.id,
        label: format!("A{}", here + 1),
        parent,
        depth: first.depth,
        count: nodes.len(),
        pages: range(nodes.iter().map(|node| node.pages.round() as u64)),
        members: range(nodes.iter().map(|node| node.members)),
        vmas: vmas.collect(),
    })
}

/// The looks of an anon_vma, and the numbers of those below it.
type Looks = (String, Vec<usize>);

/// Numbers for looks: equal for what looks the same.
#[derive(Default)]
struct Known(BTreeMap<Looks, usize>);

impl Known {
    fn number(&mut self, looks: Looks) -> usize {
        let next = self.0.len();
        *self.0.entry(looks).or_insert(next)
    }
}

/// The place of a process in the legend.
fn process(processes: &mut Vec<Process>, report: &ChainsReport, count: usize) -> usize {
    let pid = report.header.pid;
    let place = processes.iter().position(|process| process.pid == pid);
    let place = place.unwrap_or_else(|| {
        processes.push(Process {
            pid,
            name: plain(&report.header.comm),
            count: 0,
        });
        processes.len() - 1
    });
    processes[place].count = processes[place].count.max(count);
    place
}

/// The least and the greatest.
fn range(numbers: impl Iterator<Item = u64> + Clone) -> (u64, u64) {
    (
        numbers.clone().min().unwrap_or(0),
        numbers.max().unwrap_or(0),
    )
}

/// A range of numbers with a noun.
pub fn span((least, most): (u64, u64), one: &str, many: &str) -> String {
    match least == most {
        true => count(most, one, many),
        false => format!("{least}–{most} {many}"),
    }
}
