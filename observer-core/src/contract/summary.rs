//! The attached hooks of each signal, from the verdicts on all hooks.

use super::verdict::{AttachType, Status, Verdict};

/// The attached hooks of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<'a> {
    /// The signal.
    pub signal: &'static str,
    /// The attached hooks. Empty if the signal is not observed.
    pub hooks: Vec<(AttachType, &'static str)>,
    /// Remarks on those, without repetitions.
    pub remarks: Vec<&'a str>,
    /// Whether the counts are inferred, according to the remarks of their hooks.
    pub inferred: bool,
    /// The most preferred program that is not attached; of a signal that is not observed, the least
    /// preferred one, which would be enough, of those that failed (refused or broken), else of those
    /// that a setting disables, else of those that this kernel does not support.
    pub unavailable: Option<&'a Verdict>,
}

impl Summary<'_> {
    /// Why the signal is not observed: the label `reason` of `observer_signal_missing`. `None` if it is, or if no hook for
    /// it was tried.
    #[must_use]
    pub fn missing(&self) -> Option<Status> {
        let obstacle = self.unavailable.filter(|_| self.hooks.is_empty());
        obstacle.map(|it| it.status)
    }

    /// Whether it is observed with hooks that see less than the preferred ones, or cost more.
    #[must_use]
    pub fn is_inferior(&self) -> bool {
        let Some(preferred) = self.unavailable else {
            return false;
        };
        let costs_more =
            |(attach_type, _): &(AttachType, _)| attach_type.cost() > preferred.attach_type.cost();
        !self.hooks.is_empty() && (!self.remarks.is_empty() || self.hooks.iter().any(costs_more))
    }

    /// The hooks, each type once in a row: `tracepoint sys_exit_accept, sys_exit_accept4`.
    #[must_use]
    pub fn hooks_text(&self) -> String {
        let mut text = String::new();
        let mut last = None;
        for &(attach_type, hook) in &self.hooks {
            if !text.is_empty() {
                text.push_str(", ");
            }
            if last.replace(attach_type) != Some(attach_type) {
                text.push_str(attach_type.name());
                text.push(' ');
            }
            text.push_str(hook.strip_prefix("syscalls:").unwrap_or(hook));
        }
        text
    }
}

/// One summary for each signal, in order of appearance.
#[must_use]
pub fn summaries(verdicts: &[Verdict]) -> Vec<Summary<'_>> {
    let mut summaries: Vec<Summary<'_>> = Vec::new();
    for verdict in verdicts {
        let signal = verdict.signal;
        let at = summaries.iter().position(|it| it.signal == signal);
        let at = at.unwrap_or_else(|| {
            summaries.push(Summary {
                signal,
                hooks: Vec::new(),
                remarks: Vec::new(),
                inferred: false,
                unavailable: None,
            });
            summaries.len() - 1
        });
        let summary = &mut summaries[at];
        match verdict.status {
            Status::Attached => {
                let hook = (verdict.attach_type, verdict.hook);
                if !summary.hooks.contains(&hook) {
                    summary.hooks.push(hook);
                }
                let remark = verdict.detail.as_str();
                if !remark.is_empty() && !summary.remarks.contains(&remark) {
                    summary.remarks.push(remark);
                    summary.inferred |= remark.starts_with("inferred");
                }
            }
            status if status.is_obstacle() => {
                summary.unavailable.get_or_insert(verdict);
            }
            _ => {}
        }
    }
    for summary in summaries.iter_mut().filter(|it| it.hooks.is_empty()) {
        let of_signal = verdicts
            .iter()
            .rev()
            .filter(|it| it.signal == summary.signal);
        let obstacles = of_signal.filter(|it| it.status.is_obstacle());
        // A disabled fallback does not hide that a hook has failed, which somebody can mend. The first of equals is
        // taken.
        summary.unavailable = obstacles.min_by_key(|it| match it.status {
            Status::Disabled => 1,
            Status::Unsupported => 2,
            _ => 0,
        });
    }
    summaries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(signal: &'static str, hook: &'static str, status: Status, detail: &str) -> Verdict {
        Verdict {
            signal,
            attach_type: AttachType::TpBtf,
            hook,
            program: "program",
            status,
            detail: detail.to_owned(),
            required: false,
        }
    }

    #[test]
    fn a_summary_names_what_serves_a_signal_and_what_would_be_better() {
        let verdicts = [
            verdict("time_wait", "a", Status::Refused, "not permitted"),
            verdict("time_wait", "b", Status::Unsupported, "no such function"),
            verdict("time_wait", "c", Status::Attached, "inferred from c"),
            verdict("ports", "d", Status::Attached, ""),
            verdict("ports", "d", Status::Attached, ""),
            verdict("accept", "e", Status::Broken, "it did not run"),
            verdict("accept", "f", Status::Incomplete, "needs e"),
            verdict("accept", "g", Status::Unsupported, "no such event"),
            verdict("tls", "h", Status::Unsupported, "no such link"),
            verdict("tls", "i", Status::Unsupported, "no cookies"),
            verdict("bind", "j", Status::Refused, "not permitted"),
            verdict("bind", "k", Status::Disabled, "by a setting"),
            verdict("fd", "l", Status::Disabled, "by a setting"),
            verdict("fd", "m", Status::Unsupported, "no such event"),
        ];
        let [time_wait, ports, accept, tls, bind, fd] = &summaries(&verdicts)[..] else {
            panic!("six signals");
        };
        assert_eq!(time_wait.hooks, [(AttachType::TpBtf, "c")]);
        assert_eq!(time_wait.remarks, ["inferred from c"]);
        assert_eq!(time_wait.unavailable, Some(&verdicts[0]));
        assert!(time_wait.inferred && !ports.inferred && !accept.inferred);
        assert_eq!(ports.hooks_text(), "tp_btf d");
        assert_eq!(ports.unavailable, None);
        assert!(accept.hooks.is_empty());
        assert_eq!(accept.unavailable, Some(&verdicts[5]));
        assert_eq!(tls.unavailable, Some(&verdicts[9]));
        assert_eq!(bind.unavailable, Some(&verdicts[10]));
        assert_eq!(fd.unavailable, Some(&verdicts[12]));
        assert!(time_wait.is_inferior() && !ports.is_inferior() && !accept.is_inferior());
    }

    #[test]
    fn a_fallback_is_inferior_if_it_sees_less_or_costs_more() {
        let of = |preferred, attach_type, remark: &str| {
            let unavailable = Verdict {
                attach_type: preferred,
                ..verdict("accept", "a", Status::Unsupported, "no such function")
            };
            let attached = Verdict {
                attach_type,
                ..verdict("accept", "b", Status::Attached, remark)
            };
            let verdicts = [unavailable, attached];
            summaries(&verdicts)[0].is_inferior()
        };
        // The classic tracepoint is preferred on kernels that skip programs on the typed one, which costs less.
        assert!(!of(AttachType::Tracepoint, AttachType::TpBtf, ""));
        assert!(!of(AttachType::Fexit, AttachType::Fexit, ""));
        assert!(of(AttachType::Fentry, AttachType::Kprobe, ""));
        assert!(of(AttachType::TpBtf, AttachType::Tracepoint, ""));
        assert!(of(AttachType::Fexit, AttachType::Fexit, "not io_uring"));
    }
}
