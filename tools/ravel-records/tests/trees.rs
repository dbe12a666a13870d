//! Reports that are joined must belong together.

use ravel_records::{Error, Tree};

const ANON: &str = include_str!("samples/anon-bgsave-child.txt");
const COW: &str = include_str!("samples/cow-bgsave-child.txt");
const LINEAGE: &str = include_str!("samples/lineage-bgsave-child.txt");

#[test]
fn reports_of_different_processes_are_not_joined() {
    let other = |report: &str, old: &str, new: &str| {
        let text = report.replacen(old, new, 1);
        assert_ne!(text, report);
        text
    };
    for (reports, says) in [
        (
            [
                LINEAGE.to_owned(),
                ANON.to_owned(),
                other(COW, "pid=901", "pid=902"),
            ],
            "`lineage` is of pid 901, `cow` of pid 902",
        ),
        (
            [
                LINEAGE.to_owned(),
                other(ANON, "pid=901", "pid=7"),
                COW.to_owned(),
            ],
            "`anon_vma` of pid 7",
        ),
        (
            [
                LINEAGE.to_owned(),
                ANON.to_owned(),
                other(COW, "kernel=\"7", "kernel=\"6"),
            ],
            "from Linux 6.",
        ),
        (
            [
                other(LINEAGE, "pid=901", "pid=7"),
                other(ANON, "pid=901", "pid=7"),
                other(COW, "pid=901", "pid=7"),
            ],
            "does not contain that process",
        ),
    ] {
        let error = Tree::parse(reports.concat().as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Mismatch(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}
