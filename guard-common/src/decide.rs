use crate::{Mode, Ruling, Verdict};

/// What happens to an attempt, and by whose ruling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The stricter of the rulings that had a say.
    pub ruling: Ruling,
    /// Whether it was the ruling of the socket's creator rather than of the process that makes the attempt.
    pub by_creator: bool,
}

impl Decision {
    /// Whether the attempt goes on.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        !matches!((self.ruling.verdict(), self.ruling.mode()), (Verdict::Deny, Mode::Enforce))
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
        (Verdict::Deny, Mode::Audit) => 1,
        (Verdict::Deny, Mode::Enforce) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW_AUDIT: Ruling = Ruling::new(Verdict::Allow, Mode::Audit, 1);
    const ALLOW_ENFORCE: Ruling = Ruling::new(Verdict::Allow, Mode::Enforce, 2);
    const DENY_AUDIT: Ruling = Ruling::new(Verdict::Deny, Mode::Audit, 3);
    const DENY_ENFORCE: Ruling = Ruling::new(Verdict::Deny, Mode::Enforce, 4);
    const ALL: [Ruling; 4] = [ALLOW_AUDIT, ALLOW_ENFORCE, DENY_AUDIT, DENY_ENFORCE];

    #[test]
    fn only_an_enforced_denial_stops_an_attempt() {
        for ruling in ALL {
            assert_eq!(decide(ruling, None).passes(), ruling != DENY_ENFORCE, "{ruling:?}");
        }
    }

    #[test]
    fn audit_changes_no_outcome_whoever_made_the_socket() {
        for task in [ALLOW_AUDIT, DENY_AUDIT] {
            for creator in [ALLOW_AUDIT, DENY_AUDIT] {
                assert!(decide(task, Some(creator)).passes(), "{task:?} {creator:?}");
            }
        }
    }

    #[test]
    fn the_stricter_of_task_and_creator_decides() {
        for task in ALL {
            for creator in ALL {
                let decision = decide(task, Some(creator));
                assert_eq!(
                    decision.passes(),
                    task != DENY_ENFORCE && creator != DENY_ENFORCE,
                    "{task:?} {creator:?}"
                );
                assert_eq!(
                    decision.by_creator,
                    decision.ruling == creator && strictness(creator) > strictness(task)
                );
            }
        }
    }

    #[test]
    fn an_unknown_code_is_the_closed_choice() {
        assert_eq!(Verdict::from_code(7), Verdict::Deny);
        assert_eq!(Mode::from_code(255), Mode::Enforce);
    }
}
