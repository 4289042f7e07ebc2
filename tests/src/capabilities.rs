//! What processes may do: the sets of capabilities that containers are given.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// The capabilities of a container's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capabilities {
    /// Whatever the test itself has, as in a privileged container.
    #[default]
    All,
    /// The default ones, and `CAP_NET_ADMIN`.
    NetAdmin,
    /// What container runtimes give by default, `CAP_NET_RAW` among them.
    Default,
    /// None, as a hardened container drops them.
    None,
}

impl Capabilities {
    /// containerd's list; Docker's and CRI-O's differ in what is no matter here.
    const BY_DEFAULT: CapabilitySet = CapabilitySet::CHOWN
        .union(CapabilitySet::DAC_OVERRIDE)
        .union(CapabilitySet::FSETID)
        .union(CapabilitySet::FOWNER)
        .union(CapabilitySet::MKNOD)
        .union(CapabilitySet::NET_RAW)
        .union(CapabilitySet::SETGID)
        .union(CapabilitySet::SETUID)
        .union(CapabilitySet::SETFCAP)
        .union(CapabilitySet::SETPCAP)
        .union(CapabilitySet::NET_BIND_SERVICE)
        .union(CapabilitySet::SYS_CHROOT)
        .union(CapabilitySet::KILL)
        .union(CapabilitySet::AUDIT_WRITE);

    /// `None`: nothing is dropped.
    fn kept(self) -> Option<CapabilitySet> {
        match self {
            Self::All => None,
            Self::NetAdmin => Some(Self::BY_DEFAULT.union(CapabilitySet::NET_ADMIN)),
            Self::Default => Some(Self::BY_DEFAULT),
            Self::None => Some(CapabilitySet::empty()),
        }
    }

    /// Leaves the calling thread's next program, run by root, with these and no others. It makes system calls and
    /// nothing else, so that it may stand between fork and exec.
    pub(crate) fn keep_at_exec(self) -> io::Result<()> {
        let Some(kept) = self.kept() else { return Ok(()) };
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if kept.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                // This kernel has no more of them.
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
        clear_ambient_capability_set()?;
        let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })?;
        Ok(())
    }
}
