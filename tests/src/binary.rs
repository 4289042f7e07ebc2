use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Finds an executable of this workspace: `$NAME_BIN` (`IMDS_GUARD_BIN` for `imds-guard`) if it is set, else the
/// one built beside the running executable.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    if let Some(path) = env::var_os(&variable) {
        return Ok(path.into());
    }
    // Tests run from `target/PROFILE/deps`, executables from `target/PROFILE`.
    let running = env::current_exe().context("find the running executable")?;
    let found =
        running.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    let Some(path) = found else {
        bail!("no `{name}` beside {}: build it, or name it in {variable}", running.display());
    };
    Ok(path)
}
