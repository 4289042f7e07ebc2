use crate::{Mode, Ruling, Verdict, Way};

/// What happens to an attempt, and by whose ruling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The stricter of the rulings that had a say.
    pub ruling: Ruling,
    /// Whether it was the ruling of the socket's creator rather than of the process that makes the attempt.
    pub by_creator: bool,
}

impl Decision {
    /// Whether the attempt may go to the endpoint itself. What is filtered never does.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        matches!((self.ruling.verdict(), self.ruling.mode()), (Verdict::Allow, _) | (_, Mode::Audit))
    }
}

/// How an attempt goes on.
///
/// `gated` says whether the endpoint is reached through a gate alone, and `open` whether this socket can be sent there:
/// the gate is open, and in the socket's namespace. What is audited is never held up.
#[inline(always)]
pub const fn way(decision: Decision, gated: bool, open: bool) -> Way {
    if matches!(decision.ruling.mode(), Mode::Audit) {
        return Way::Direct;
    }
    match (gated, open) {
        (true, true) => Way::Gate,
        (false, _) if decision.passes() => Way::Direct,
        (true, false) | (false, _) => Way::Refused,
    }
}

/// The decision on an attempt: the stricter of what the policy says of the pod that makes it (`task`) and of the
/// pod that created the socket, where that is another one. Equally strict, the task's own counts.
#[inline(always)]
pub fn decide(task: Ruling, creator: Option<Ruling>) -> Decision {
    match creator {
        Some(creator) if strictness(creator) > strictness(task) => {
            Decision { ruling: creator, by_creator: true }
        }
        _ => Decision { ruling: task, by_creator: false },
    }
}

/// A verdict that is carried out is stricter than one that is only recorded.
#[inline(always)]
const fn strictness(ruling: Ruling) -> u8 {
    match (ruling.verdict(), ruling.mode()) {
        (Verdict::Allow, _) => 0,
        (Verdict::Filter, Mode::Audit) => 1,
        (Verdict::Deny, Mode::Audit) => 2,
        (Verdict::Filter, Mode::Enforce) => 3,
        (Verdict::Deny, Mode::Enforce) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ruling(verdict: Verdict, mode: Mode) -> Ruling {
        Ruling::new(verdict, mode, verdict.code() as u16 * 2 + mode.code() as u16)
    }

    fn all() -> impl Iterator<Item = Ruling> {
        Verdict::ALL.iter().flat_map(|verdict| Mode::ALL.iter().map(|mode| ruling(*verdict, *mode)))
    }

    const ALLOWED: Ruling = ruling(Verdict::Allow, Mode::Enforce);
    const FILTERED: Ruling = ruling(Verdict::Filter, Mode::Enforce);
    const DENIED: Ruling = ruling(Verdict::Deny, Mode::Enforce);

    #[test]
    fn only_what_is_enforced_stops_an_attempt() {
        for ruling in all() {
            assert_eq!(decide(ruling, None).passes(), ![FILTERED, DENIED].contains(&ruling), "{ruling:?}");
        }
    }

    #[test]
    fn audit_changes_no_outcome_whoever_made_the_socket() {
        let audited = || all().filter(|ruling| ruling.mode() == Mode::Audit);
        for task in audited() {
            for creator in audited() {
                let decision = decide(task, Some(creator));
                assert_eq!(way(decision, false, false), Way::Direct, "{task:?} {creator:?}");
            }
        }
    }

    #[test]
    fn the_stricter_of_task_and_creator_decides() {
        for task in all() {
            for creator in all() {
                let decision = decide(task, Some(creator));
                let stops = |ruling| [FILTERED, DENIED].contains(&ruling);
                assert_eq!(decision.passes(), !stops(task) && !stops(creator), "{task:?} {creator:?}");
                assert_eq!(
                    decision.by_creator,
                    decision.ruling == creator && strictness(creator) > strictness(task)
                );
            }
        }
    }

    #[test]
    fn who_has_a_gate_goes_through_it_or_nowhere() {
        for ruling in [ALLOWED, FILTERED, DENIED] {
            let decision = decide(ruling, None);
            assert_eq!(way(decision, true, true), Way::Gate, "{ruling:?}");
            assert_eq!(way(decision, true, false), Way::Refused, "{ruling:?}");
            assert_ne!(way(decision, false, true), Way::Gate, "{ruling:?}");
        }
        assert_eq!(
            way(decide(FILTERED, None), false, false),
            Way::Refused,
            "without a gate nothing is filtered"
        );
        assert_eq!(way(decide(ALLOWED, None), false, false), Way::Direct);
    }

    #[test]
    fn an_unknown_code_is_the_closed_choice() {
        assert_eq!(Verdict::from_code(7), Verdict::Deny);
        assert_eq!(Mode::from_code(255), Mode::Enforce);
        assert_eq!(Way::from_code(3), Way::Refused);
    }
}
