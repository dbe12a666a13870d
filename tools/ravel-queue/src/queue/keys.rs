//! Names of a queue's keys.

/// Keys of a queue: those of Laravel's, and a few of our own beside them.
#[derive(Clone, Debug)]
pub struct Keys {
    base: String,
}

impl Keys {
    /// Of the queue of that name, with what stands before all keys.
    pub fn new(prefix: &str, queue: &str) -> Self {
        Self {
            base: format!("{prefix}queues:{queue}"),
        }
    }

    /// The list of jobs that are ready, taken from its left.
    pub fn queue(&self) -> &str {
        &self.base
    }

    /// Jobs by when they may be taken again.
    pub fn delayed(&self) -> String {
        format!("{}:delayed", self.base)
    }

    /// Jobs that a worker has, by when its reservation ends.
    pub fn reserved(&self) -> String {
        format!("{}:reserved", self.base)
    }

    /// A token for each job that was pushed.
    pub fn notify(&self) -> String {
        format!("{}:notify", self.base)
    }

    /// Counts reservations.
    pub fn serial(&self) -> String {
        format!("{}:ravel:serial", self.base)
    }

    /// Returns the set of workers: number, process and host, by the time of their last registration.
    pub fn workers(&self) -> String {
        format!("{}:ravel:workers", self.base)
    }

    /// A stream of jobs that failed.
    pub fn failed(&self) -> String {
        format!("{}:ravel:failed", self.base)
    }

    /// Names of jobs that were pushed and may be pushed again, by when they were, of a stream of one boot of a machine.
    pub fn pushed(&self, boot: &str, stream: &str) -> String {
        format!("{}:ravel:pushed:{boot}:{stream}", self.base)
    }

    /// Whether they are all in one slot of a cluster: there is something in braces.
    pub fn share_a_slot(&self) -> bool {
        let inside = self.base.split_once('{');
        inside.is_some_and(|(_, rest)| rest.find('}').is_some_and(|end| end > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_laravel_s() {
        let keys = Keys::new("app_", "mail");
        let names = [
            keys.queue().to_owned(),
            keys.delayed(),
            keys.reserved(),
            keys.notify(),
        ];
        let wanted =
            ["", ":delayed", ":reserved", ":notify"].map(|end| format!("app_queues:mail{end}"));
        assert_eq!(names, wanted);
    }

    #[test]
    fn a_tag_is_something_in_braces() {
        for (queue, wanted) in [
            ("{a}", true),
            ("x{a}y", true),
            ("a", false),
            ("{}", false),
            ("}{", false),
            ("{}{a}", false),
        ] {
            assert_eq!(Keys::new("", queue).share_a_slot(), wanted, "{queue}");
        }
    }
}
