// SPDX-License-Identifier: GPL-2.0
//! Report anon_vma: processes made by fork(), and the tree that it builds.

use std::collections::BTreeSet;

use anyhow::Result;
use ravel_records::{AnonVma, Id, Relation};

use crate::process::{Area, Child, Puppet, Stage, die_with};
use crate::report::{anon, bounds, chain, check_members, members, numbers, vma};
use crate::sys::{self, Forked, Pid};
use crate::{check, check_eq, tests};

use Relation::{Ancestor, Descendant, Self_, Unrelated};

tests!("family":
    child_has_a_chain_of_two,
    child_that_writes_changes_no_structure,
    ids_agree_between_reports,
    area_written_after_fork_is_not_shared,
    grandchild_has_a_chain_of_three,
    siblings_meet_only_at_the_root,
    child_that_unmaps_leaves_the_tree,
    child_that_exits_leaves_the_tree,
    split_in_the_child_is_two_members,
    orphan_is_no_descendant_any_more,
    root_without_vmas_stays_for_its_children,
    root_is_not_reused_for_it_counts_itself,
    childless_ancestors_anon_vma_is_reused,
    reused_anon_vma_is_not_reused_twice,
    chain_of_50_forks,
    two_hundred_children,
    ids_stay_while_others_fork,
);

fn root_and_area(puppets: usize) -> Result<(Puppet, Area)> {
    let mut puppet = Stage::new(puppets)?.start()?;
    let area = puppet.map(2)?;
    puppet.write(area)?;
    Ok((puppet, area))
}

fn ids(chain: &[&AnonVma]) -> Vec<Id> {
    chain.iter().map(|group| group.id).collect()
}

/// Checks ids and depths of a chain: each is the parent of the next, and the first the root of all.
fn check_line(chain: &[&AnonVma]) -> Result<()> {
    for (depth, group) in chain.iter().enumerate() {
        check_eq!(group.depth, depth as u64, "depth of {}", group.id);
        check_eq!(group.root, chain[0].id, "root of {}", group.id);
        check_eq!(
            group.parent,
            chain[depth.saturating_sub(1)].id,
            "parent of {}",
            group.id
        );
    }
    Ok(())
}

fn check_parent_and_child(parent: Pid, child: Pid, area: Area) -> Result<()> {
    let report = anon(parent)?;
    let seen = chain(&report, area)?;
    check_line(&seen)?;
    check_eq!(seen.len(), 1, "the parent's chain");
    check_eq!(numbers(seen[0]), (0, 2, 1, 2, 2), "the root");
    check_members(seen[0], area, &[(parent, Self_), (child, Descendant)])?;

    let report = anon(child)?;
    let seen = chain(&report, area)?;
    check_line(&seen)?;
    check_eq!(seen.len(), 2, "the child's chain");
    check_eq!(
        numbers(seen[0]),
        (0, 2, 1, 2, 2),
        "the root, from the child"
    );
    check_members(seen[0], area, &[(parent, Ancestor), (child, Self_)])?;
    check_eq!(numbers(seen[1]), (1, 0, 1, 1, 1), "the child's own");
    check_members(seen[1], area, &[(child, Self_)])?;
    check_eq!(
        vma(&report, area)?.anon_vma,
        seen[1].id,
        "where the child's new pages go"
    );
    Ok(())
}

fn child_has_a_chain_of_two() -> Result<()> {
    let (mut parent, area) = root_and_area(2)?;
    let child = parent.fork()?;
    check_parent_and_child(parent.pid, child.pid, area)
}

fn child_that_writes_changes_no_structure() -> Result<()> {
    let (mut parent, area) = root_and_area(2)?;
    let mut child = parent.fork()?;
    let before = anon(child.pid)?;
    child.write(area)?;
    check_parent_and_child(parent.pid, child.pid, area)?;
    let after = anon(child.pid)?;
    check_eq!(
        ids(&chain(&after, area)?),
        ids(&chain(&before, area)?),
        "the chain's ids"
    );
    parent.write(area)?;
    check_parent_and_child(parent.pid, child.pid, area)
}

fn ids_agree_between_reports() -> Result<()> {
    let (mut parent, area) = root_and_area(2)?;
    let child = parent.fork()?;
    let (of_parent, of_child) = (anon(parent.pid)?, anon(child.pid)?);
    let (from_parent, from_child) = (chain(&of_parent, area)?[0], chain(&of_child, area)?[0]);
    check_eq!(from_parent.id, from_child.id, "id of the root");
    let mms = |group: &AnonVma| -> BTreeSet<(u32, Id)> {
        group.member.iter().map(|m| (m.pid, m.mm)).collect()
    };
    check_eq!(
        mms(from_parent),
        mms(from_child),
        "pid and mm of the members"
    );
    check_eq!(
        mms(from_parent)
            .iter()
            .map(|m| m.1)
            .collect::<BTreeSet<_>>()
            .len(),
        2,
        "mms"
    );
    let zero = from_parent.member.iter().any(|m| m.mm.is_none()) || from_parent.id.is_none();
    check!(!zero, "an id is zero: {from_parent:?}");
    Ok(())
}

fn area_written_after_fork_is_not_shared() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(1)?;
    let mut child = parent.fork()?;
    child.write(area)?;
    check_eq!(
        anon(parent.pid)?.vma_at(area.start),
        None,
        "record of the parent"
    );
    parent.write(area)?;
    let (of_parent, of_child) = (anon(parent.pid)?, anon(child.pid)?);
    let (ours, theirs) = (chain(&of_parent, area)?, chain(&of_child, area)?);
    check_eq!((ours.len(), theirs.len()), (1, 1), "chains");
    check!(ours[0].id != theirs[0].id, "they share {}", ours[0].id);
    check_members(ours[0], area, &[(parent.pid, Self_)])?;
    check_members(theirs[0], area, &[(child.pid, Self_)])
}

fn grandchild_has_a_chain_of_three() -> Result<()> {
    let (mut parent, area) = root_and_area(3)?;
    let mut child = parent.fork()?;
    let grandchild = child.fork()?;
    let (p, c, g) = (parent.pid, child.pid, grandchild.pid);

    let report = anon(g)?;
    let seen = chain(&report, area)?;
    check_line(&seen)?;
    check_eq!(seen.len(), 3, "the grandchild's chain");
    check_eq!(numbers(seen[0]), (0, 2, 1, 3, 3), "the root");
    check_eq!(numbers(seen[1]), (1, 1, 1, 1, 2), "the child's");
    check_eq!(numbers(seen[2]), (2, 0, 1, 1, 1), "the grandchild's");
    check_members(seen[0], area, &[(p, Ancestor), (c, Ancestor), (g, Self_)])?;
    check_members(seen[1], area, &[(c, Ancestor), (g, Self_)])?;
    check_members(seen[2], area, &[(g, Self_)])?;
    let of_grandchild = ids(&seen);

    let report = anon(c)?;
    let seen = chain(&report, area)?;
    check_eq!(ids(&seen), of_grandchild[..2], "the child's chain");
    check_members(seen[0], area, &[(p, Ancestor), (c, Self_), (g, Descendant)])?;
    check_members(seen[1], area, &[(c, Self_), (g, Descendant)])?;

    let report = anon(p)?;
    let seen = chain(&report, area)?;
    check_eq!(ids(&seen), of_grandchild[..1], "the parent's chain");
    check_members(
        seen[0],
        area,
        &[(p, Self_), (c, Descendant), (g, Descendant)],
    )
}

fn siblings_meet_only_at_the_root() -> Result<()> {
    let (mut parent, area) = root_and_area(3)?;
    let (one, two) = (parent.fork()?, parent.fork()?);
    let (p, a, b) = (parent.pid, one.pid, two.pid);
    let (of_a, of_b) = (anon(a)?, anon(b)?);
    let (chain_a, chain_b) = (chain(&of_a, area)?, chain(&of_b, area)?);
    check_line(&chain_a)?;
    check_line(&chain_b)?;
    check_eq!((chain_a.len(), chain_b.len()), (2, 2), "chains");
    check_eq!(chain_a[0].id, chain_b[0].id, "the root");
    check!(
        chain_a[1].id != chain_b[1].id,
        "siblings share {}",
        chain_a[1].id
    );
    for group in [chain_a[0], chain_b[0]] {
        check_eq!(numbers(group), (0, 3, 1, 3, 3), "the root");
    }
    check_members(
        chain_a[0],
        area,
        &[(p, Ancestor), (a, Self_), (b, Unrelated)],
    )?;
    check_members(
        chain_b[0],
        area,
        &[(p, Ancestor), (a, Unrelated), (b, Self_)],
    )?;
    check_members(chain_a[1], area, &[(a, Self_)])?;
    check_members(chain_b[1], area, &[(b, Self_)])?;
    for group in [chain_a[1], chain_b[1]] {
        check_eq!(numbers(group), (1, 0, 1, 1, 1), "a sibling's own");
    }
    Ok(())
}

fn child_that_unmaps_leaves_the_tree() -> Result<()> {
    let (mut parent, area) = root_and_area(2)?;
    let mut child = parent.fork()?;
    child.unmap(area)?;
    let report = anon(parent.pid)?;
    let root = chain(&report, area)?[0];
    check_eq!(numbers(root), (0, 1, 1, 1, 1), "the root");
    check_members(root, area, &[(parent.pid, Self_)])?;
    check_eq!(
        anon(child.pid)?.vma_at(area.start),
        None,
        "record of the child"
    );
    Ok(())
}

fn child_that_exits_leaves_the_tree() -> Result<()> {
    let (mut parent, area) = root_and_area(3)?;
    let one = parent.fork()?;
    let two = parent.fork()?;
    one.exit()?;
    let report = anon(parent.pid)?;
    let root = chain(&report, area)?[0];
    check_eq!(numbers(root), (0, 2, 1, 2, 2), "the root");
    check_members(root, area, &[(parent.pid, Self_), (two.pid, Descendant)])
}

fn split_in_the_child_is_two_members() -> Result<()> {
    let (mut parent, area) = root_and_area(2)?;
    let mut child = parent.fork()?;
    let (left, right) = (area.pages(0, 1), area.pages(1, 1));
    child.protect(right, libc::PROT_READ)?;
    let report = anon(child.pid)?;
    let (of_left, of_right) = (chain(&report, left)?, chain(&report, right)?);
    check_eq!(ids(&of_left), ids(&of_right), "chains of the halves");
    check_eq!(numbers(of_left[0]), (0, 2, 1, 2, 3), "the root");
    check_eq!(numbers(of_left[1]), (1, 0, 2, 1, 2), "the child's own");
    let mut found: Vec<_> = of_left[0]
        .member
        .iter()
        .map(|m| (m.pid as Pid, bounds(m)))
        .collect();
    found.sort_unstable();
    let mut want = vec![
        (parent.pid, (area.start, area.end())),
        (child.pid, (left.start, left.end())),
        (child.pid, (right.start, right.end())),
    ];
    want.sort_unstable();
    check_eq!(found, want, "members of the root");
    // Each of the two anon_vmas stands in the report once.
    let inside = [vma(&report, left)?, vma(&report, right)?];
    let here = inside
        .iter()
        .flat_map(|v| &v.avcs)
        .filter(|avc| avc.here)
        .count();
    check_eq!(here, 2, "avc records with here=1");
    Ok(())
}

fn orphan_is_no_descendant_any_more() -> Result<()> {
    let (mut parent, area) = root_and_area(3)?;
    let mut child = parent.fork()?;
    let grandchild = child.fork_lasting()?;
    child.exit()?;
    // The grandchild goes to the runner, a subreaper.
    let report = anon(parent.pid)?;
    let root = chain(&report, area)?[0];
    check_members(
        root,
        area,
        &[(parent.pid, Self_), (grandchild.pid, Unrelated)],
    )?;
    let report = anon(grandchild.pid)?;
    let root = chain(&report, area)?[0];
    check_members(
        root,
        area,
        &[(parent.pid, Unrelated), (grandchild.pid, Self_)],
    )
}

fn root_without_vmas_stays_for_its_children() -> Result<()> {
    let (mut parent, area) = root_and_area(2)?;
    let child = parent.fork()?;
    parent.unmap(area)?;
    let report = anon(child.pid)?;
    let seen = chain(&report, area)?;
    check_line(&seen)?;
    // active_vmas 0: no VMA's own any more, but the child's chain goes through it.
    check_eq!(numbers(seen[0]), (0, 2, 0, 2, 1), "the root");
    check_members(seen[0], area, &[(child.pid, Self_)])?;
    check_eq!(numbers(seen[1]), (1, 0, 1, 1, 1), "the child's own");
    Ok(())
}

fn root_is_not_reused_for_it_counts_itself() -> Result<()> {
    // maybe_reuse_anon_vma(): num_active_vmas is 0, but num_children is 2, the root itself is one.
    let (mut parent, area) = root_and_area(3)?;
    let mut child = parent.fork_lasting()?;
    parent.exit()?;
    let grandchild = child.fork()?;
    let report = anon(grandchild.pid)?;
    let seen = chain(&report, area)?;
    check_line(&seen)?;
    check_eq!(seen.len(), 3, "the grandchild's chain");
    check_eq!(numbers(seen[0]), (0, 2, 0, 3, 2), "the root");
    check_members(
        seen[0],
        area,
        &[(child.pid, Ancestor), (grandchild.pid, Self_)],
    )?;
    check_eq!(numbers(seen[1]), (1, 1, 1, 1, 2), "the child's");
    check_eq!(numbers(seen[2]), (2, 0, 1, 1, 1), "the grandchild's own");
    Ok(())
}

fn childless_ancestors_anon_vma_is_reused() -> Result<()> {
    // The child exits; its anon_vma has no VMA and one child: what the grandchild forks takes it.
    let (mut parent, area) = root_and_area(4)?;
    let mut child = parent.fork()?;
    let mut grandchild = child.fork_lasting()?;
    let report = anon(grandchild.pid)?;
    let before = ids(&chain(&report, area)?);
    child.exit()?;
    let great = grandchild.fork()?;
    let (p, g, gg) = (parent.pid, grandchild.pid, great.pid);

    let report = anon(gg)?;
    let record = vma(&report, area)?;
    check_eq!(record.chain, 3, "chain: no anon_vma was added");
    check_eq!(
        record.anon_vma,
        before[1],
        "own anon_vma: the one that the dead child had"
    );
    let seen = chain(&report, area)?;
    check_line(&seen)?;
    check_eq!(ids(&seen), before, "chain");
    check_eq!(numbers(seen[0]), (0, 2, 1, 3, 3), "the root");
    check_eq!(numbers(seen[1]), (1, 1, 1, 1, 2), "the reused one");
    check_eq!(numbers(seen[2]), (2, 0, 1, 1, 2), "the grandchild's");
    check_members(seen[0], area, &[(p, Unrelated), (g, Ancestor), (gg, Self_)])?;
    check_members(seen[1], area, &[(g, Ancestor), (gg, Self_)])?;
    check_members(seen[2], area, &[(g, Ancestor), (gg, Self_)])?;

    let report = anon(g)?;
    check_eq!(
        vma(&report, area)?.anon_vma,
        before[2],
        "own anon_vma of the grandchild"
    );
    Ok(())
}

fn reused_anon_vma_is_not_reused_twice() -> Result<()> {
    let (mut parent, area) = root_and_area(5)?;
    let mut child = parent.fork()?;
    let mut grandchild = child.fork_lasting()?;
    child.exit()?;
    let first = grandchild.fork()?;
    let second = grandchild.fork()?;
    let (of_first, of_second) = (anon(first.pid)?, anon(second.pid)?);
    check_eq!(
        vma(&of_first, area)?.chain,
        3,
        "chain of the first, that reuses"
    );
    check_eq!(
        vma(&of_second, area)?.chain,
        4,
        "chain of the second, that cannot"
    );
    let seen = chain(&of_second, area)?;
    check_line(&seen)?;
    check_eq!(numbers(seen[1]), (1, 1, 1, 1, 3), "the reused one");
    check_eq!(numbers(seen[2]), (2, 1, 1, 1, 3), "the grandchild's");
    check_eq!(numbers(seen[3]), (3, 0, 1, 1, 1), "the second's own");
    Ok(())
}

fn chain_of_50_forks() -> Result<()> {
    const FORKS: u64 = 50;
    let (first, area) = root_and_area(FORKS as usize + 1)?;
    let mut line = vec![first];
    for i in 0..FORKS as usize {
        let next = line[i].fork()?;
        line.push(next);
    }
    let pids: Vec<Pid> = line.iter().map(|puppet| puppet.pid).collect();
    let last = pids.len() - 1;
    let report = anon(pids[last])?;
    let seen = chain(&report, area)?;
    check_eq!(seen.len() as u64, FORKS + 1, "the last one's chain");
    check_line(&seen)?;
    for (depth, group) in seen.iter().enumerate() {
        let below = FORKS - depth as u64;
        let children = match depth {
            0 => 2,
            _ => below.min(1),
        };
        let refcount = if depth == 0 { FORKS as i64 + 1 } else { 1 };
        check_eq!(
            numbers(group),
            (depth as u64, children, 1, refcount, below + 1),
            "numbers"
        );
        let mut want: Vec<_> = pids[depth..last]
            .iter()
            .map(|pid| (*pid, Ancestor))
            .collect();
        want.push((pids[last], Self_));
        check_members(group, area, &want)?;
    }
    let report = anon(pids[25])?;
    let seen = chain(&report, area)?;
    check_eq!(seen.len(), 26, "the middle one's chain");
    let mut want: Vec<_> = pids[..25].iter().map(|pid| (*pid, Ancestor)).collect();
    want.push((pids[25], Self_));
    want.extend(pids[26..].iter().map(|pid| (*pid, Descendant)));
    check_members(seen[0], area, &want)
}

/// Forks children that sleep until they are killed.
fn fork_sleepers(count: usize) -> Result<Vec<Pid>> {
    let parent = sys::getpid();
    let mut pids = Vec::new();
    for _ in 0..count {
        match sys::fork()? {
            Forked::Parent(pid) => pids.push(pid),
            Forked::Child => {
                die_with(parent);
                loop {
                    std::thread::park();
                }
            }
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

fn two_hundred_children() -> Result<()> {
    const CHILDREN: usize = 200;
    let area = Area::map(1)?;
    sys::poke(area.start as usize, 1);
    let children = fork_sleepers(CHILDREN)?;
    let us = sys::getpid();

    let report = anon(us)?;
    let root = chain(&report, area)?[0];
    let count = CHILDREN as u64 + 1;
    check_eq!(
        numbers(root),
        (0, count, 1, count as i64, count),
        "the root"
    );
    let mut want: Vec<_> = children.iter().map(|pid| (*pid, Descendant)).collect();
    want.push((us, Self_));
    check_members(root, area, &want)?;
    let mms: BTreeSet<Id> = root.member.iter().map(|m| m.mm).collect();
    check_eq!(mms.len() as u64, count, "address spaces");

    let report = anon(children[0])?;
    let root = chain(&report, area)?[0];
    let mut want: Vec<_> = children[1..].iter().map(|pid| (*pid, Unrelated)).collect();
    want.extend([(us, Ancestor), (children[0], Self_)]);
    check_members(root, area, &want)
}

fn ids_stay_while_others_fork() -> Result<()> {
    let (parent, area) = root_and_area(1)?;
    let before = chain(&anon(parent.pid)?, area)?[0].id;
    for _ in 0..20 {
        Child::spawn(|_| Ok(()))?.join()?;
    }
    let report = anon(parent.pid)?;
    let root = chain(&report, area)?[0];
    check_eq!(root.id, before, "id of the root");
    check_eq!(members(root)?, [(parent.pid, Self_)], "members");
    Ok(())
}
