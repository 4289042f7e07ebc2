use std::{io, process::ExitCode};

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Print completions for a shell.
///
/// For bash: source <(imds-guard completions bash)
#[derive(Args, Debug)]
pub(super) struct Completions {
    shell: Shell,
}

impl Completions {
    #[expect(clippy::unnecessary_wraps, reason = "every command has this signature")]
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        generate(self.shell, &mut super::Cli::command(), "imds-guard", &mut io::stdout());
        Ok(ExitCode::SUCCESS)
    }
}
