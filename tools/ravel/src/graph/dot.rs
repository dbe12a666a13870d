//! The picture as Graphviz reads it: the topology, and nothing of the looks but the colours.

use std::fmt::Write;

use ravel_records::visible;

use super::{Graph, span};

/// The whole file.
pub fn write(graph: &Graph) -> String {
    let mut text =
        String::from("digraph ravel {\n\trankdir=BT;\n\tnode [fontname=\"sans-serif\"];\n");
    let _ = writeln!(text, "\tlabel={};", quote(&graph.title));
    for (place, panel) in graph.panels.iter().enumerate() {
        let _ = writeln!(text, "\tsubgraph cluster_{place} {{");
        let mut title = panel.title.clone();
        for alike in &panel.alike {
            title.push_str("\nlikewise: ");
            title.push_str(alike);
        }
        let _ = writeln!(text, "\t\tlabel={};", quote(&title));
        for block in &panel.blocks {
            let pages = span(block.pages, "page", "pages");
            let _ = writeln!(
                text,
                "\t\t\"a-{}\" [class=anon_vma, shape=box, style=rounded, depth={}, count={}, label={}];",
                block.id,
                block.depth,
                block.count,
                quote(&format!("{}\n{pages}", block.label))
            );
            for vma in &block.vmas {
                let name = graph.processes.get(vma.process).map_or("", |of| &of.name);
                let own = span(vma.own, "page its own", "pages its own");
                let many = match block.count {
                    1 => String::new(),
                    count => format!(" ×{count}"),
                };
                let _ = writeln!(
                    text,
                    "\t\t\"{}\" [class=vma, shape=box, count={}, label={}];",
                    vma.key(),
                    block.count,
                    quote(&format!("{name} {}{many}\n{own}", vma.pid))
                );
            }
        }
        for (at, block) in panel.blocks.iter().enumerate() {
            if let Some(parent) = block.parent.and_then(|parent| panel.blocks.get(parent)) {
                let (id, parent) = (block.id, parent.id);
                let _ = writeln!(
                    text,
                    "\t\t\"a-{id}\" -> \"a-{parent}\" [class=parent, style=dashed, count={}];",
                    block.count
                );
            }
            for vma in &block.vmas {
                for link in &vma.links {
                    let Some(to) = panel.blocks.get(*link) else {
                        continue;
                    };
                    let class = if *link == at { "own" } else { "avc" };
                    let _ = writeln!(
                        text,
                        "\t\t\"{}\" -> \"a-{}\" [class={class}, count={}];",
                        vma.key(),
                        to.id,
                        block.count
                    );
                }
            }
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// A string of the language, with nothing active in it but the breaks between its lines.
fn quote(text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| visible(line).replace('\\', "\\\\").replace('"', "\\\""))
        .collect();
    format!("\"{}\"", lines.join("\\n"))
}
