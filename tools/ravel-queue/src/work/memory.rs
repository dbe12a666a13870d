//! How much memory a process and its descendants have.

use std::fs;

/// Returns the kilobytes that a process and all that descends from it now have at most: a page that several of them map
/// counts for each. It costs little.
pub fn at_most(pid: i32) -> u64 {
    sum(&family(pid), "status", "VmRSS:")
}

/// Returns the kilobytes that they have: of a page that several processes map, each has its share (PSS). A child that
/// fork() has made shares most pages with its parent. The kernel walks all of their pages for it.
pub fn share(pid: i32) -> u64 {
    sum(&family(pid), "smaps_rollup", "Pss:")
}

fn family(pid: i32) -> Vec<String> {
    let mut all = vec![pid.to_string()];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            all.extend(children.split_whitespace().map(str::to_owned));
        }
        next += 1;
    }
    all
}

/// Adds up a number of kilobytes that a file of each process has. What has exited meanwhile has none.
fn sum(family: &[String], file: &str, key: &str) -> u64 {
    let of = |pid: &String| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    family.iter().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some_and_one_that_is_not_there_has_none() {
        let pid = std::process::id() as i32;
        let (most, share) = (at_most(pid), share(pid));
        assert!(share > 100 && share <= most, "{share} of {most}");
        assert_eq!(at_most(i32::MAX), 0);
    }
}
