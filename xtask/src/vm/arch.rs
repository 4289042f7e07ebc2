//! The two architectures that AWS has nodes of.

/// What a machine's processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// That of this machine, if it is one of them.
    pub(super) fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// As Debian writes it.
    pub(super) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As Rust names the target.
    pub(super) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// What Debian's cross tools begin with.
    pub(super) const fn tools(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// The emulator, and the machine that it plays. Neoverse N1 is the processor of Graviton2.
    pub(super) const fn emulator(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", &["-machine", "q35", "-cpu", "max"]),
            Self::Aarch64 => {
                ("qemu-system-aarch64", &["-machine", "virt,gic-version=3", "-cpu", "neoverse-n1"])
            }
        }
    }

    /// The kernel's name of the serial line.
    pub(super) const fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }
}
