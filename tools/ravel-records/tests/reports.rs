//! Whole reports, as samples by hand: what is read from them, and what is refused.

use ravel_records::{
    Agreement, AnonVmaReport, Attached, Batch, ChainsReport, CowReport, Error, EtherType, Event,
    FORMAT, Failed, Id, LineageReport, Linger, MemberState, Offset, PageKind, PageReport, Point,
    ProcessState, Protocol, QueueName, Relation, Role, Scope, Shutdown, SignalTo, SkState,
    SkbsReport, SocketsReport, Sources, Streams, Tree, Version, WaitQueue, WaitersReport, WaitsBy,
    Way,
};

const ANON: &str = include_str!("samples/anon-bgsave-child.txt");
const SPLIT: &str = include_str!("samples/anon-mprotect-split.txt");
const SOCKETS: &str = include_str!("samples/sockets-half-closed.txt");
const SKBS: &str = include_str!("samples/skbs-udp.txt");
const WAITERS: &str = include_str!("samples/waiters-every-model.txt");
const PAGE: &str = include_str!("samples/page-forked.txt");
const COW: &str = include_str!("samples/cow-bgsave-child.txt");
const LINEAGE: &str = include_str!("samples/lineage-bgsave-child.txt");
const CHAINS: &str = include_str!("samples/chains-three-generations.txt");
const BATCH: &str = include_str!("samples/events-batch.txt");
const NETWORK: &str = include_str!("samples/events-network.txt");
const STREAMS: &str = include_str!("samples/streams.txt");

fn reason(text: &str) -> String {
    AnonVmaReport::parse(text.as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn anon_vma() {
    let report = AnonVmaReport::parse(ANON.as_bytes()).unwrap();
    assert_eq!(report.header.format, FORMAT);
    assert_eq!((report.vmas.len(), report.anon_vmas.len()), (3, 6));
    let vma = report.vma_at(0x7f3a_1000_0000).unwrap();
    assert_eq!(vma.size(), 128 << 20);
    let chain = report.chain(vma);
    assert_eq!(chain.len(), 2);
    assert_eq!((chain[0].depth, chain[0].id), (0, chain[0].root));
    assert_eq!((chain[1].id, chain[1].parent), (vma.anon_vma, chain[0].id));
    assert_eq!(chain[0].member[0].relation, Relation::Ancestor);
    let libc = &report.vmas[2];
    assert_eq!(
        libc.name,
        "/usr/lib/x86_64-linux-gnu/libc.so.6 (a \"copy\")"
    );
    assert_ne!(libc.pgoff, libc.anon_pgoff);
    assert_eq!(report.chain(libc)[0].member[2].state, MemberState::Forking);
    assert!(report.vma_at(0).is_none());
}

#[test]
fn one_anon_vma_of_many_vmas() {
    let report = AnonVmaReport::parse(SPLIT.as_bytes()).unwrap();
    let [first, second, third] = &report.vmas[..] else {
        panic!("{report:?}");
    };
    assert_eq!(report.chain(first), report.chain(third));
    assert!(first.avcs[0].here && !second.avcs[0].here);
}

#[test]
fn sockets() {
    let report = SocketsReport::parse(SOCKETS.as_bytes()).unwrap();
    let server = report.socket(5).unwrap();
    let detail = server.detail.as_ref().unwrap();
    assert_eq!(server.protocol, Protocol::Tcp);
    assert_eq!(detail.sk_state, SkState::CloseWait);
    assert_eq!(detail.shutdown, Shutdown::Rd);
    assert_eq!((detail.rx_bytes, detail.inq), (5, 5));
    assert_eq!(detail.linger, Linger::Seconds(0));
    assert!(report.socket(6).unwrap().detail.is_none());
}

#[test]
fn skbs() {
    let report = SkbsReport::parse(SKBS.as_bytes()).unwrap();
    let udp = report.socket(3).unwrap();
    let receive = udp.queue(&QueueName::Receive).unwrap();
    assert_eq!(receive.skbs[0].protocol, EtherType(0x0800));
    let unset = Offset { raw: 0, set: false };
    assert_eq!(receive.skbs[1].transport, unset);
    assert_eq!(receive.skbs[0].seq, None);
    let write = report.socket(4).unwrap().queue(&QueueName::Write).unwrap();
    assert_eq!((write.packets, write.shown), (1030, 1));
    assert_eq!(write.skbs[0].seq, Some(4294967290));
}

#[test]
fn waiters() {
    let report = WaitersReport::parse(WAITERS.as_bytes()).unwrap();
    let listener = report.socket(3).unwrap();
    assert!(listener.socket.nonblock && listener.signal.is_none());
    assert_eq!(listener.waiters[0].by, WaitsBy::Epoll);
    assert_eq!(listener.waiters[0].pid, None);
    let blocked = &listener.waiters[1];
    assert_eq!((blocked.tid, blocked.syscall), (Some(1380), Some(288)));
    assert_eq!(blocked.events, None);
    let stream = report.socket(4).unwrap();
    let signal = stream.signal.as_ref().unwrap();
    assert!(signal.r#async && signal.to == SignalTo::Process);
    assert_eq!(stream.waiters[1].opcode, Some(27));
    assert_eq!(stream.waiters[3].queue, WaitQueue::Lock);
    assert!(report.socket(5).unwrap().socket.busy);
    let named = &report.socket(7).unwrap().waiters[2];
    assert_eq!(
        (named.by.clone(), named.module.to_string()),
        (WaitsBy::Unknown, "[vhost]".into())
    );
    for (change, to) in [
        ("waiters=11", "waiters=10"),
        ("waiter fd=7", "waiter fd=8"),
        ("signal fd=7", "signal fd=4"),
        (" by=epoll", ""),
    ] {
        let text = WAITERS.replace(change, to);
        assert!(WaitersReport::parse(text.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn page() {
    let report = PageReport::parse(PAGE.as_bytes()).unwrap();
    let shared = report.page_at(0x7f3a_1000_0fff).unwrap();
    assert_eq!((shared.mapcount, shared.found, shared.visited), (2, 2, 2));
    assert_eq!(shared.mappers[0].relation, Relation::Ancestor);
    assert!(shared.flags().any(|flag| flag == "swapbacked"));
    let part = report.page_at(0x7f3a_1000_2000).unwrap();
    assert_eq!((part.order, part.place, part.moved), (9, 2, true));
    assert_eq!(part.mappers[0].at.0, 0x7f3a_2000_2000);
    assert!(report.page_at(0x7f3a_1000_3000).is_none());
    let swap = report.page_at(0x7f3a_1000_4000).unwrap();
    assert_eq!(swap.kind, PageKind::Swap);
    assert_eq!((swap.swap_type, swap.swap_offset), (Some(0), Some(1793)));
    assert_eq!(swap.flags().count(), 0);
    assert_eq!(shared.swap_type, None);
}

#[test]
fn cow() {
    let report = CowReport::parse(COW.as_bytes()).unwrap();
    let data = report.vma_at(0x7f3a_17ff_ffff).unwrap();
    assert_eq!(data.size(), 128 << 20);
    assert_eq!((data.pages.anon, data.pages.exclusive), (30720, 4096));
    assert_eq!(data.pages.present(), 30720 + 16 + 7);
    assert_eq!(data.shares[1].state, MemberState::Forking);
    assert_eq!(report.summary.pages.file, 233);
    assert!(report.vma_at(0).is_none());
}

#[test]
fn lineage() {
    let report = LineageReport::parse(LINEAGE.as_bytes()).unwrap();
    assert_eq!(report.itself().unwrap().pid, 901);
    assert_eq!(report.threads[1].comm.to_string(), "bio \"close\"");
    let parent = report.process(812).unwrap();
    assert_eq!((parent.role.clone(), parent.tracer), (Role::Ancestor, 820));
    assert_eq!(parent.shared.as_ref().unwrap().sockets, 3);
    assert_eq!(
        report.process(911).unwrap().namespaces.pid_ns,
        4_026_532_199
    );
    assert_eq!(report.process(912).unwrap().shared, None);
    let children: Vec<u32> = report.children(901).map(|kin| kin.pid).collect();
    assert_eq!(children, [910, 912]);
    for (old, new, expected) in [
        (
            "ancestors=3",
            "ancestors=2",
            "counts 2 ancestors, the report has 3",
        ),
        ("others=1", "others=0", "counts 0 others, the report has 1"),
        (
            "threads=2 fds",
            "threads=3 fds",
            "counts 3 threads, the report has 2",
        ),
        ("role=self", "role=child", "counts 1 processes asked for"),
        ("shared pid=910", "shared pid=9", "a `shared` not under"),
        (
            "namespaces pid=910",
            "namespaces pid=9",
            "`namespaces` not under",
        ),
    ] {
        let text = LINEAGE.replacen(old, new, 1);
        assert_ne!(text, LINEAGE, "{old}");
        let reason = LineageReport::parse(text.as_bytes()).unwrap_err();
        assert!(reason.to_string().contains(expected), "{reason}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["processes"][1]["shared"]["files"], 9);
    assert_eq!(json["processes"][1]["role"], "ancestor");
    assert_eq!(
        serde_json::from_value::<LineageReport>(json).unwrap(),
        report
    );
}

#[test]
fn trees_joined() {
    let all = [COW, LINEAGE, ANON].concat();
    let tree = Tree::parse(all.as_bytes()).unwrap();
    let of = |pid| {
        let edge = tree.edge(pid).unwrap();
        (edge.agreement.clone(), edge.exec)
    };
    let parent = tree.edge(812).unwrap();
    assert_eq!((parent.anon_vmas, parent.pages), (3, 15 + 26600));
    assert_eq!((parent.files, parent.sockets), (9, 3));
    assert_eq!(of(812), (Agreement::Agrees, 0));
    // The server went through exec() after the shell had forked it.
    assert_eq!(of(700), (Agreement::Exec, 812));
    assert_eq!(of(1), (Agreement::Exec, 812));
    assert_eq!(of(910), (Agreement::Exec, 910));
    assert_eq!(of(911), (Agreement::Exec, 910));
    assert_eq!(of(912), (Agreement::Exited, 0));
    assert_eq!(of(915), (Agreement::SameMemory, 0));
    assert!(!tree.whole);
    let changed = |old: &str, new: &str| {
        let text = all.replace(old, new);
        assert_ne!(text, all, "{old}");
        Tree::parse(text.as_bytes()).unwrap()
    };
    let adopted = changed("born_ns=92000000000 exec=1", "born_ns=5 exec=0");
    assert_eq!(adopted.edge(910).unwrap().agreement, Agreement::Adopted);
    let unexplained = changed("born_ns=92000000000 exec=1", "born_ns=92000000000 exec=0");
    let edge = unexplained.edge(910).unwrap();
    assert_eq!(edge.agreement, Agreement::Unexplained);
    let json = serde_json::to_string(&tree).unwrap();
    assert_eq!(serde_json::from_str::<Tree>(&json).unwrap(), tree);
    for missing in [
        [COW, LINEAGE].concat(),
        [ANON, COW].concat(),
        ANON.to_owned(),
    ] {
        assert!(Tree::parse(missing.as_bytes()).is_err());
    }
}

fn page_reason(old: &str, new: &str) -> String {
    let text = PAGE.replacen(old, new, 1);
    assert_ne!(text, PAGE, "{old}");
    let error = PageReport::parse(text.as_bytes()).unwrap_err();
    error.to_string()
}

fn cow_reason(old: &str, new: &str) -> String {
    let text = COW.replacen(old, new, 1);
    assert_ne!(text, COW, "{old}");
    let error = CowReport::parse(text.as_bytes()).unwrap_err();
    error.to_string()
}

#[test]
fn counts_of_pages_must_agree() {
    for (old, new, expected) in [
        ("pages=6", "pages=7", "counts 7 pages, the report has 6"),
        (
            "mappers=5",
            "mappers=4",
            "counts 4 mappers, the report has 5",
        ),
        ("found=1", "found=2", "counts 6 mappers by `found`"),
        ("moved=1\nmapper", "moved=0\nmapper", "counts 1 moved"),
        (
            "mapper page=0x7f3a10001000",
            "mapper page=0x1000",
            "line 6: a `mapper` not under",
        ),
    ] {
        let reason = page_reason(old, new);
        assert!(reason.contains(expected), "{reason}");
    }
    // A bound explains what is missing.
    let text = PAGE
        .replacen("found=1", "found=9", 1)
        .replace("cut=0", "cut=8");
    PageReport::parse(text.as_bytes()).unwrap();
    for (old, new, expected) in [
        ("told=5", "told=6", "counts 6 cow records, the report has 5"),
        (
            "anon=30742",
            "anon=30741",
            "counts 30741 anon, the report has 30742",
        ),
        ("swap=25", "swap=24", "counts 25 swap, the report has 24"),
        ("vmas=8", "vmas=9", "counts 9 VMAs, the report has 8"),
        (
            "moved=1 name",
            "moved=2 name",
            "counts 1 moved, the report has 2",
        ),
        (
            "share vma=0x5",
            "share vma=0x6",
            "line 4: a `share` not under",
        ),
    ] {
        let reason = cow_reason(old, new);
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn json_keeps_everything() {
    let anon = AnonVmaReport::parse(ANON.as_bytes()).unwrap();
    let json = serde_json::to_string(&anon).unwrap();
    assert_eq!(serde_json::from_str::<AnonVmaReport>(&json).unwrap(), anon);
    let sockets = SocketsReport::parse(SOCKETS.as_bytes()).unwrap();
    let json = serde_json::to_value(&sockets).unwrap();
    assert_eq!(json["sockets"][2]["type"], "stream");
    assert_eq!(json["sockets"][2]["linger"], 0);
    assert_eq!(json["sockets"][1]["linger"], serde_json::Value::Null);
    assert_eq!(json["sockets"][2]["sk_state"], "close_wait");
    assert_eq!(
        json["sockets"][2]["flags"],
        serde_json::json!(["done", "linger"])
    );
    assert_eq!(json["sockets"][2]["shutdown"], serde_json::json!(["rd"]));
    assert_eq!(json["sockets"][0]["inq"], serde_json::Value::Null);
    assert_eq!(json["sockets"][0]["remote"], serde_json::Value::Null);
    assert_eq!(json["sockets"][0]["peer"], serde_json::Value::Null);
    assert!(
        json["sockets"][0]["silent_ms"].is_number() || json["sockets"][0]["silent_ms"].is_null()
    );
    assert!(json["sockets"][3].get("sk_state").is_none());
    assert_eq!(
        serde_json::from_value::<SocketsReport>(json).unwrap(),
        sockets
    );
    let skbs = SkbsReport::parse(SKBS.as_bytes()).unwrap();
    let json = serde_json::to_value(&skbs).unwrap();
    let skb = &json["sockets"][0]["queues"][0]["skbs"][1];
    assert_eq!(skb["mac"]["raw"], 65535);
    assert_eq!(skb["mac"]["set"], false);
    assert_eq!(skb["protocol"], "0x0800");
    assert_eq!(serde_json::from_value::<SkbsReport>(json).unwrap(), skbs);
    let page = PageReport::parse(PAGE.as_bytes()).unwrap();
    let json = serde_json::to_value(&page).unwrap();
    assert_eq!(json["pages"][0]["mappers"][1]["pid"], 901);
    assert_eq!(json["pages"][0]["index"], "0x7f3a10000");
    assert_eq!(json["pages"][3]["kind"], "swap");
    assert_eq!(serde_json::from_value::<PageReport>(json).unwrap(), page);
    let cow = CowReport::parse(COW.as_bytes()).unwrap();
    let json = serde_json::to_value(&cow).unwrap();
    assert_eq!(json["vmas"][1]["inherited"], 15);
    assert_eq!(json["vmas"][1]["shares"][0]["pages"], 15);
    assert_eq!(json["summary"]["huge"], 20480);
    assert_eq!(serde_json::from_value::<CowReport>(json).unwrap(), cow);
}

#[test]
fn version_and_attached() {
    let text = b"version module=\"0.1.0\" kernel=\"7.3.4\" format=2\n";
    // The summary that `version` does not have is not asked for.
    let version = Version::parse(text).unwrap();
    assert_eq!(
        (version.module.to_string(), version.format),
        ("0.1.0".into(), 2)
    );
    let text =
        b"attached pid=7 comm=\"\" state=exited\nsummary report=attached attached=1 limit=256\n";
    let attached = Attached::parse(text).unwrap();
    assert_eq!(attached.attached[0].state, ProcessState::Exited);
    assert_eq!(attached.summary.limit, 256);
    assert!(matches!(Version::parse(b""), Err(Error::Cut { lines: 0 })));
}

#[test]
fn every_cut_is_seen() {
    for (text, parse) in [
        (
            ANON,
            (|text| AnonVmaReport::parse(text).map(drop)) as fn(&[u8]) -> Result<(), Error>,
        ),
        (SOCKETS, |text| SocketsReport::parse(text).map(drop)),
        (SKBS, |text| SkbsReport::parse(text).map(drop)),
        (PAGE, |text| PageReport::parse(text).map(drop)),
        (COW, |text| CowReport::parse(text).map(drop)),
        (LINEAGE, |text| LineageReport::parse(text).map(drop)),
    ] {
        for end in 0..text.len() {
            let error = parse(&text.as_bytes()[..end]).unwrap_err();
            assert!(matches!(error, Error::Cut { .. }), "{end}: {error}");
        }
        parse(text.as_bytes()).unwrap();
    }
}

#[test]
fn an_error_record_wins() {
    let start = &ANON[..ANON.find("avc").unwrap()];
    let line = "error report=anon_vma pid=901 errno=ESRCH message=\"process 901 has exited\"\n";
    for text in [line.to_owned(), format!("{start}{line}")] {
        let Err(Error::Report(error)) = AnonVmaReport::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        assert_eq!((error.errno.as_str(), error.pid), ("ESRCH", 901));
        assert_eq!(error.to_string(), "process 901 has exited (ESRCH)");
    }
}

#[test]
fn what_is_new_is_passed_over() {
    let text = ANON
        .replace("avc vma", "later key=\"a b\" n=1\navc later=*!\u{e9} vma")
        .replace("state=exiting", "state=frozen");
    let report = AnonVmaReport::parse(text.as_bytes()).unwrap();
    let frozen = report.chain(&report.vmas[2])[0].member.last().unwrap();
    assert_eq!(frozen.state, MemberState::Other("frozen".into()));
}

#[test]
fn what_is_wrong_is_named() {
    let later = reason(&ANON.replace("format=1", "format=2"));
    assert!(later.contains("version 2"), "{later}");
    for (old, new, expected) in [
        ("depth=0 ", "", "line 7: `anon_vma`: `depth` is missing"),
        (
            "chain=2",
            "chain=x",
            "line 2: `vma`: `chain` is not a u64: `x`",
        ),
        (
            "name=anon_vma",
            "name=skbs",
            "line 1: a report `skbs`, not `anon_vma`",
        ),
        (
            "report name",
            "vma name",
            "line 1: `vma` where `report` belongs",
        ),
        ("own=1", "own=2", "line 3: `avc`: `own` is not a flag: `2`"),
        (
            "comm=\"redis-server\"",
            "comm=redis",
            "`comm` is not a string: `redis`",
        ),
        (
            "members=12",
            "members=11",
            "the summary counts 11 members, the report has 12",
        ),
        (
            "chain=2",
            "chain=3",
            "counts 7 avcs by `chain`, the report has 6",
        ),
        (
            "avc vma=0x5",
            "avc vma=0x6",
            "line 3: an `avc` not under its `vma`",
        ),
        (
            "member anon_vma=30",
            "member anon_vma=31",
            "line 5: a `member` not under",
        ),
        ("cut=0\n", "cut=0\nvma\n", "`vma` behind the summary"),
    ] {
        let text = ANON.replacen(old, new, 1);
        assert_ne!(text, ANON, "{old}");
        let reason = reason(&text);
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_bound_explains_what_is_missing() {
    let text = ANON
        .replace("members=4", "members=9")
        .replace("cut=0", "cut=5");
    AnonVmaReport::parse(text.as_bytes()).unwrap();
    let error = SkbsReport::parse(SKBS.replace("cut=1029", "cut=1028").as_bytes()).unwrap_err();
    assert!(
        error.to_string().contains("1029 sk_buffs are missing"),
        "{error}"
    );
}

#[test]
fn chains() {
    let reports = ChainsReport::parse_all(CHAINS.as_bytes()).unwrap();
    let names: Vec<String> = reports
        .iter()
        .map(|of| of.header.comm.to_string())
        .collect();
    assert_eq!(names, ["editor", "worker", "helper", "logger"]);
    let area = |of: usize| {
        let vmas = reports[of].vmas.iter();
        vmas.clone()
            .find(|vma| vma.start.0 == 0x7f9b_5e62_e000)
            .unwrap()
    };
    for (of, links, own) in [(0, 1, 5 + 3), (1, 2, 3), (2, 3, 1), (3, 2, 0)] {
        let vma = area(of);
        assert_eq!((vma.link.len(), vma.links), (links, links as u64));
        assert_eq!(vma.root, area(0).anon_vma);
        let runs = vma.run.iter().filter(|run| run.anon_vma == vma.anon_vma);
        assert_eq!(runs.map(|run| run.pages).sum::<u64>(), own);
        assert_eq!(
            vma.run.iter().map(|run| run.pages).sum::<u64>(),
            vma.pages()
        );
    }
    let vma = area(0);
    assert_eq!(vma.index(&vma.run[1]), vma.anon_pgoff.0 + 3);
    let one = &CHAINS[..CHAINS.find("\nreport ").unwrap() + 1];
    assert_eq!(ChainsReport::parse(one.as_bytes()).unwrap(), reports[0]);
    for (from, to, expected) in [
        (
            "links=6",
            "links=7",
            "the summary counts 7 links, the report has 6",
        ),
        (
            "pages=21",
            "pages=20",
            "the summary counts 20 pages, the report has 21",
        ),
        (
            "run vma=0x4a3000",
            "run vma=0x4a4000",
            "a `run` not under its `chain`",
        ),
        (
            "address=0x4a5000 pages=3",
            "address=0x4a5000 pages=4",
            "a `run` outside its `chain`",
        ),
        (
            "chain start",
            "later start",
            "a `link` not under its `chain`",
        ),
    ] {
        let text = one.replacen(from, to, 1);
        let error = ChainsReport::parse_all(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(ChainsReport::parse_all(b"").is_err());
}

#[test]
fn batch() {
    let batch = Batch::parse(BATCH.as_bytes()).unwrap();
    assert_eq!(batch.header.stream, "jobs");
    assert_eq!(batch.header.deadline, 4_142_731_000_000);
    let Event::Fork(fork) = &batch.events[0] else {
        panic!("{batch:?}");
    };
    assert_eq!((fork.pid, fork.tid, fork.child), (812, 815, 901));
    assert_eq!(fork.comm, "queue \"worker\"");
    assert_eq!(fork.line, [801, 1]);
    let counts: Vec<u64> = batch.events.iter().map(Event::count).collect();
    assert_eq!(counts, [1, 1, 120, 1, 1, 1]);
    let Event::Exit(exit) = &batch.events[5] else {
        panic!("{batch:?}");
    };
    assert_eq!(exit.line, [0u32; 0]);
    // A kind that a later module may have is passed over, and so is a key.
    let later = BATCH.replace("exec seq=8", "rename seq=8");
    let later = later.replace("code=3", "code=3 colour=red");
    assert_eq!(Batch::parse(later.as_bytes()).unwrap().events.len(), 5);
    let json = serde_json::to_string(&batch).unwrap();
    assert!(json.contains(r#"{"event":"loss","seq":9,"#), "{json}");
    assert_eq!(serde_json::from_str::<Batch>(&json).unwrap(), batch);
}

#[test]
fn batch_of_the_network() {
    let batch = Batch::parse(NETWORK.as_bytes()).unwrap();
    assert_eq!(batch.events.len(), 10);
    let Event::TcpState(state) = &batch.events[0] else {
        panic!("{batch:?}");
    };
    assert_eq!(
        (&state.old, &state.new),
        (&SkState::Established, &SkState::FinWait1)
    );
    let Event::Reset(reset) = &batch.events[2] else {
        panic!("{batch:?}");
    };
    assert_eq!((&reset.way, reset.id), (&Way::Sent, Id::NONE));
    assert_eq!(
        (&reset.sk_state, reset.reason.as_str()),
        (&SkState::None, "NO_SOCKET")
    );
    let Event::Drop(drop) = &batch.events[4] else {
        panic!("{batch:?}");
    };
    assert_eq!((drop.protocol.0, drop.transport.as_str()), (0x88cc, "none"));
    let Event::Close(close) = &batch.events[6] else {
        panic!("{batch:?}");
    };
    assert_eq!(
        (close.exiting, close.refs, close.rx_bytes, &close.shutdown),
        (false, 2, 17, &Shutdown::Wr)
    );
    let Event::Packet(packet) = &batch.events[9] else {
        panic!("{batch:?}");
    };
    assert_eq!(
        (&packet.point, packet.network.get(), packet.inner_mac.get()),
        (&Point::Drop, Some(64), None)
    );
    let json = serde_json::to_string(&batch).unwrap();
    assert!(
        json.contains(r#"{"event":"tcp_state","seq":132,"#),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<Batch>(&json).unwrap(), batch);
}

#[test]
fn batches_that_are_none() {
    for (old, new, reason) in [
        ("lost=120", "lost=121", "121 lost, the records say 120"),
        ("records=6", "records=7", "counts 7 records"),
        ("seq=130", "seq=129", "129 behind 129"),
        ("line=2 ", "line=2, ", "`line` is not a u32"),
        (
            "batch stream",
            "failed stream",
            "`failed` where `batch` belongs",
        ),
        ("format=1", "format=2", "format version 2"),
        ("summary report=events", "#", "no kind"),
    ] {
        let error = Batch::parse(BATCH.replacen(old, new, 1).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(reason), "{old}: {error}");
    }
    let cut = &BATCH[..BATCH.len() - 60];
    assert!(matches!(
        Batch::parse(cut.as_bytes()),
        Err(Error::Cut { .. })
    ));
}

#[test]
fn failed_streams_and_sources() {
    let failed = BATCH
        .replace("batch stream", "failed stream")
        .replace("report=events", "report=failed");
    assert_eq!(Failed::parse(failed.as_bytes()).unwrap().events.len(), 6);
    let streams = Streams::parse(STREAMS.as_bytes()).unwrap();
    assert_eq!(streams.streams[0].scope, Scope::Tree);
    assert_eq!(streams.streams[1].waiting, 10);
    let sources = "source name=fork tracepoints=sched_process_fork functions=none missing=1\n\
        source name=shutdown tracepoints=none functions=a,b missing=0\n\
        summary report=sources sources=2 missing=1 cut=0\n";
    let sources = Sources::parse(sources.as_bytes()).unwrap().sources;
    assert_eq!(
        (sources[0].name.as_str(), sources[0].found()),
        ("fork", false)
    );
    assert_eq!(sources[0].hooks(), "sched_process_fork");
    assert_eq!(sources[1].hooks(), "a(), b()");
    assert!(sources[1].found());
}
