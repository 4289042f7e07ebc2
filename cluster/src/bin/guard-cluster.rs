//! Runs a private Kubernetes cluster of one node. `cargo xtask cluster` is how people call it.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use guard_cluster::{Cluster, Folder, Parts};

#[derive(Parser)]
struct Cli {
    /// The cluster's folder
    #[arg(long, global = true, value_name = "DIR", default_value = guard_cluster::FOLDER, env = "IMDS_GUARD_CLUSTER")]
    state: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a cluster and keep it until SIGTERM or SIGINT
    Serve(Parts),
    /// End the cluster that runs, and wait for its end
    Down,
    /// Say what the cluster is: `ready`, `starting` or `none`
    Status,
    /// Put the agent's image into the running cluster anew
    Load {
        /// The root file system of the agent's image
        agent: PathBuf,
    },
    /// Run a program in the node's namespaces
    Exec {
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run kubectl against the cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// The node's first process
    #[command(hide = true)]
    Init(Parts),
    /// The node itself
    #[command(hide = true)]
    Node(Parts),
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guard-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let Cli { state, task } = Cli::parse();
    let folder = Folder::at(state);
    match task {
        Task::Serve(parts) => guard_cluster::serve(&folder, &arguments(&folder, &parts))?,
        Task::Init(parts) => {
            let mut arguments = arguments(&folder, &parts);
            arguments.insert(0, "node".into());
            return guard_cluster::init(&arguments);
        }
        Task::Node(parts) => guard_cluster::node::run(&folder, &parts)?,
        Task::Down => {
            let said = if guard_cluster::down(&folder)? { "the cluster is gone" } else { "no cluster runs" };
            println!("{said}");
        }
        Task::Status => println!("{}", folder.state()?),
        Task::Load { agent } => Cluster::attach_in(folder)?.load_agent(&agent)?,
        Task::Exec { program, arguments } => {
            let mut command = Cluster::attach_in(folder)?.in_node(program)?;
            return Err(command.args(arguments).exec()).context("enter the node's namespaces");
        }
        Task::Kubectl { arguments } => {
            let mut command = Cluster::attach_in(folder)?.kubectl_command()?;
            return Err(command.args(arguments).exec()).context("enter the node's namespaces");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The arguments that name the same folder and parts, whatever the working directory is.
fn arguments(folder: &Folder, parts: &Parts) -> Vec<OsString> {
    let here = env::current_dir().unwrap_or_default();
    let named = [
        ("--state", folder.path()),
        ("--kubernetes", &parts.kubernetes),
        ("--python", &parts.python),
        ("--agent", &parts.agent),
    ];
    named.into_iter().flat_map(|(name, path)| [name.into(), here.join(path).into()]).collect()
}
