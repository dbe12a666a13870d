#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Lists who shares anonymous memory with a process, with drgn on /proc/kcore, as its users do.

    walk.py STYLE REPEAT PID [--rows | --check PIDS AREAS]

STYLE is `helpers`, drgn's own, or `raw`, tuned by hand: one read for each structure. Types come from the
kernel's BTF. The result is a line of JSON: rows, the least seconds of a walk; seconds from the program's
start to the end of its first walk, and CPU seconds until then; and kilobytes of memory.

--rows prints each row of the last walk before: the VMA's start, the member's pid, start and end.
--check judges each walk by what the workload knows: a file with a byte for each pid (1 lives, 2 lives for as
long as all this takes, 3 was reaped) and one with the start of each area that all of them have.
"""
import time

BEGIN = time.monotonic()
import collections
import json
import os
import resource
import struct
import sys

import drgn
from drgn import FaultError, Program, offsetof, sizeof
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import for_each_vma
from drgn.helpers.linux.pid import find_task
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import btf_finder

# More rows than there are: it has run into memory that was given to something else.
LIMIT = 400_000

Row = collections.namedtuple("Row", "vma anon_vma avc pid start end its_anon_vma mm")


class Runaway(Exception):
    """It walks in circles."""


def walk_helpers(prog, pid, rows):
    for vma in for_each_vma(find_task(prog, pid).mm):
        vma_start = vma.vm_start.value_()
        chain = vma.anon_vma_chain.address_of_()
        for avc in list_for_each_entry("struct anon_vma_chain", chain, "same_vma"):
            anon_vma = avc.anon_vma.read_()
            root = anon_vma.rb_root.rb_root.address_of_()
            for entry in rbtree_inorder_for_each_entry("struct anon_vma_chain", root, "rb"):
                other = entry.vma.read_()
                owner = other.vm_mm.owner.read_()
                rows.append(Row(vma_start, anon_vma.value_(), entry.value_(),
                                owner.tgid.value_() if owner else 0, other.vm_start.value_(),
                                other.vm_end.value_(), entry.anon_vma.value_(), other.vm_mm.value_()))
                if len(rows) > LIMIT:
                    raise Runaway()


class Raw:
    """Offsets are looked up once; the pid of an address space, too, in a walk."""

    def __init__(self, prog):
        avc, vma, mm, task, anon_vma, node = (
            prog.type("struct " + name) for name in
            ("anon_vma_chain", "vm_area_struct", "mm_struct", "task_struct", "anon_vma", "rb_node"))
        self.avc_size = sizeof(avc)
        self.avc_vma, self.avc_anon_vma = offsetof(avc, "vma"), offsetof(avc, "anon_vma")
        self.avc_same, self.avc_rb = offsetof(avc, "same_vma"), offsetof(avc, "rb")
        self.left, self.right = (self.avc_rb + offsetof(node, name) for name in ("rb_left", "rb_right"))
        self.vma_start, self.vma_end = offsetof(vma, "vm_start"), offsetof(vma, "vm_end")
        self.vma_mm, self.vma_chain = offsetof(vma, "vm_mm"), offsetof(vma, "anon_vma_chain")
        self.vma_size = max(self.vma_start, self.vma_end, self.vma_mm) + 8
        self.owner, self.tgid = offsetof(mm, "owner"), offsetof(task, "tgid")
        self.root = offsetof(anon_vma, "rb_root")

    def walk(self, prog, pid, rows):
        read, u64, word = prog.read, prog.read_u64, struct.Struct("<Q").unpack_from
        pids = {}
        for vma in for_each_vma(find_task(prog, pid).mm):
            vma_start = vma.vm_start.value_()
            head = vma.value_() + self.vma_chain
            link = u64(head)
            while link != head:
                avc = read(link - self.avc_same, self.avc_size)
                link = word(avc, self.avc_same)[0]
                anon_vma = word(avc, self.avc_anon_vma)[0]
                stack, node = [], u64(anon_vma + self.root)
                while stack or node:
                    while node:
                        entry = read(node - self.avc_rb, self.avc_size)
                        stack.append((node, entry))
                        node = word(entry, self.left)[0]
                        if len(stack) > 1000:
                            raise Runaway()
                    node, entry = stack.pop()
                    other = read(word(entry, self.avc_vma)[0], self.vma_size)
                    mm = word(other, self.vma_mm)[0]
                    owner = pids.get(mm)
                    if owner is None:
                        task = u64(mm + self.owner)
                        owner = pids[mm] = prog.read_u32(task + self.tgid) if task else 0
                    rows.append(Row(vma_start, anon_vma, node - self.avc_rb, owner,
                                    word(other, self.vma_start)[0], word(other, self.vma_end)[0],
                                    word(entry, self.avc_anon_vma)[0], mm))
                    if len(rows) > LIMIT:
                        raise Runaway()
                    node = word(entry, self.right)[0]


def is_wrong(rows, before, after, lasting, areas, pid):
    """Whether something in a walk was never so. A child in fork() that bears its parent's pid is true, and so is
    an owner that has gone."""
    ours = {(row.vma, row.start, row.end) for row in rows if row.pid == pid and row.vma == row.start}
    ranges = {(start, end) for _, start, end in ours}
    trees = collections.defaultdict(list)
    for row in rows:
        trees[row.vma, row.anon_vma].append(row)
    if not areas <= {row.vma for row in rows}:
        return "an area is missing"
    for (vma, anon_vma), tree in trees.items():
        if len({row.avc for row in tree}) != len(tree) or len({(row.mm, row.start) for row in tree}) != len(tree):
            return "one twice"
        if any(row.its_anon_vma != anon_vma for row in tree):
            return "of another tree"
        if any((row.start, row.end) not in ranges for row in tree):
            return "a range that nobody has"
        pids = {row.pid for row in tree} - {0, pid}
        if any(before[other] == 3 or not after[other] for other in pids):
            return "a process that is not there"
        if vma in areas and any(sum(row.pid == other for row in tree) != 1 for other in lasting):
            return "one that lasts is missing, or there twice"
    return None


def main():
    style, repeat, pid, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    prog = Program()
    prog.set_kernel()
    btf_finder.install(prog)
    if style == "raw":
        raw = Raw(prog)
        walk = raw.walk
    else:
        walk = walk_helpers
    check = options[:1] == ["--check"]
    if check:
        areas = {int(line, 16) for line in open(options[2])}
        states = lambda: open(options[1], "rb").read()
        lasting = [other for other, state in enumerate(states()) if state == 2]
    best, cpu, first, wrong = None, None, None, collections.Counter()
    for _ in range(repeat):
        rows = []
        before = states() if check else None
        start = time.monotonic()
        why = None
        try:
            walk(prog, pid, rows)
        except (FaultError, Runaway, RecursionError, LookupError) as error:
            if not check:
                raise
            why = "an error"
        took = time.monotonic() - start
        best = took if best is None else min(best, took)
        if first is None:
            first, cpu = time.monotonic() - BEGIN, time.process_time()
        if check:
            # Until who was just made is known.
            time.sleep(0.3)
            why = why or is_wrong(rows, before, states(), lasting, areas, pid)
            if why:
                wrong[why] += 1
    if options == ["--rows"]:
        for row in rows:
            print(f"{row.vma:x} {row.pid} {row.start:x} {row.end:x}")
    print(json.dumps({
        "drgn": drgn.__version__, "rows": len(rows), "walk_s": best, "cpu_s": cpu, "first_s": first,
        "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "wrong": wrong,
    }))


main()
