//! How much memory a process and its descendants have.

use std::fs;

/// Kilobytes that are resident of a process and all that descends from it now.
pub fn resident(pid: i32) -> u64 {
    let mut sum = 0;
    let mut left = vec![pid.to_string()];
    while let Some(pid) = left.pop() {
        // What has gone meanwhile has none.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        sum += number.unwrap_or(0);
        for thread in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            left.extend(children.split_whitespace().map(str::to_owned));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some_and_one_that_is_not_there_has_none() {
        assert!(resident(std::process::id() as i32) > 100);
        assert_eq!(resident(i32::MAX), 0);
    }
}
