use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names a policy rule in events and counters. The agent interns rule names, so that an event still finds its rule
/// after a reload, and writes them into the map `RULES`, so that the next agent finds it too.
pub type RuleId = u16;

/// How many rules the map `RULES` can name.
pub const MAX_RULES: u32 = 4096;

/// The rule that denies the agent's canary, and by which its counts are known, whatever became of its cgroup. No policy has
/// it: it lies past the room of `RULES`.
pub const CANARY_RULE: RuleId = RuleId::MAX;

const _: () = assert!(CANARY_RULE as u32 >= MAX_RULES);

/// The name of a rule as `RULES` has it: at most 63 bytes, and zeroes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct RuleLabel([u8; 64]);

impl RuleLabel {
    /// None if the name is too long, or has a zero in it.
    pub fn new(name: &str) -> Option<Self> {
        let mut label = [0; 64];
        let name = name.as_bytes();
        if name.len() >= label.len() || name.contains(&0) {
            return None;
        }
        label[..name.len()].copy_from_slice(name);
        Some(Self(label))
    }

    /// The name; none if this was no name.
    pub fn as_str(&self) -> Option<&str> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        core::str::from_utf8(&self.0[..end]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let longest = "a".repeat(63);
        for name in ["", "default", &longest] {
            assert_eq!(RuleLabel::new(name).expect("it fits").as_str(), Some(name));
        }
        assert_eq!(RuleLabel::new(&"a".repeat(64)), None);
        assert_eq!(RuleLabel::new("a\0b"), None);
        assert_eq!(RuleLabel([0xff; 64]).as_str(), None);
    }
}
