use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use comfy_table::Cell;
use http_body_util::BodyExt;

use super::{block_on, style};
use crate::{
    agent::{self, PodStatus, RulingStatus, SelftestStatus, Trial},
    client,
    endpoints::Endpoints,
    issued::Held,
    text::escape,
};

/// Show what the agent on this node guards: its policy, its pods, and what each may do.
#[derive(Args, Debug)]
pub(super) struct Status {
    /// The running agent's socket
    #[arg(long, value_name = "PATH", default_value = client::SOCKET)]
    socket: PathBuf,

    /// Print JSON, with every endpoint
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let body =
            block_on(async { Ok(client::get(&self.socket, "/status").await?.collect().await?.to_bytes()) })?;
        if self.json {
            println!("{}", String::from_utf8_lossy(&body));
        } else {
            print(&serde_json::from_slice(&body)?);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(status: &agent::Status) {
    println!(
        "imds-guard {}{}",
        status.version,
        status.node.as_ref().map_or(String::new(), |n| format!(" on {n}"))
    );
    println!("  guarded root  {}", status.guarded_root);
    println!("  policy        {} (sha256 {})", status.policy.path, status.policy.sha256);
    println!("  enforcing     {}", if status.enforcing { "yes" } else { "no: denials are only recorded" });
    if let Some(gates) = status.gates {
        let missing = if gates.missing > 0 { format!(", {} missing", gates.missing) } else { String::new() };
        println!("  gates         {} open{missing}", gates.open);
    }
    println!("  self-test     {}", selftest(&status.selftest));
    println!("  metrics       http://{}/metrics", status.listen);
    if !status.degraded.is_empty() {
        println!("  degraded      {}", status.degraded.join(", "));
    }
    if let Some(refused) = &status.policy.refused {
        println!("\nThe policy as it stands now is refused; the one above goes on deciding:\n\n{refused}");
    }
    println!();
    if status.pods.is_empty() {
        println!("No pods.");
        return;
    }
    let mut table = style::table(&["NAMESPACE", "POD", "SERVICE ACCOUNT", "IMDS", "RULE"]);
    let mut pods: Vec<_> = status.pods.iter().collect();
    pods.sort_by_key(|pod| (&pod.namespace, &pod.pod));
    for pod in pods {
        table.add_row(row(pod));
    }
    println!("{table}");
    let unguarded = status.pods.iter().filter(|pod| pod.started_unguarded).count();
    if unguarded > 0 {
        println!("* started before the guard ({unguarded}): what they had got by then, they have.");
    }
    print_held(&status.credentials);
}

/// What the last self-test found, in a line; what failed first.
fn selftest(SelftestStatus { last_run, vectors }: &SelftestStatus) -> String {
    let Some(last_run) = last_run else { return "not run yet".to_owned() };
    let of = |wanted: fn(&Trial) -> Option<String>| {
        let found =
            vectors.iter().filter_map(move |(vector, trial)| Some(format!("{vector}{}", wanted(trial)?)));
        found.collect::<Vec<_>>().join(", ")
    };
    let open = of(|trial| match trial {
        Trial::Open(why) => Some(format!(" ({})", escape(why.as_bytes()))),
        Trial::Shut | Trial::NotTried(_) => None,
    });
    let shut = of(|trial| (*trial == Trial::Shut).then(String::new));
    let not_tried = of(|trial| matches!(trial, Trial::NotTried(_)).then(String::new));
    let parts = [("FAILED: ", open), ("ok: ", shut), ("can't be tried here: ", not_tried)];
    let parts = parts.iter().filter(|(_, vectors)| !vectors.is_empty());
    let parts: Vec<_> = parts.map(|(what, vectors)| format!("{what}{vectors}")).collect();
    format!("{last_run:.0}, {}", parts.join("; "))
}

/// Who may still use what enforcing does not revoke.
fn print_held(credentials: &[Held]) {
    if credentials.is_empty() {
        return;
    }
    println!("\nDenied now, and credentials of the node's role from before are still good:");
    let mut table = style::table(&["NAMESPACE", "SERVICE ACCOUNT", "UNTIL", "WHY"]);
    for Held { namespace, service_account, valid_until, seen } in credentials {
        let why = if *seen { "some were issued to it" } else { "it ran before the guard" };
        let name = |name: &str| Cell::new(escape(name.as_bytes()));
        table.add_row([
            name(namespace),
            name(service_account),
            Cell::new(format!("{valid_until:.0}")),
            Cell::new(why),
        ]);
    }
    println!("{table}");
}

fn row(pod: &PodStatus) -> Vec<Cell> {
    let name =
        |name: &Option<String>| Cell::new(name.as_ref().map_or("?".to_owned(), |n| escape(n.as_bytes())));
    let unknown =
        RulingStatus { verdict: "deny".to_owned(), mode: "enforce".to_owned(), rule: "none".to_owned() };
    let ruling = pod.rulings.get(Endpoints::IMDS).unwrap_or(&unknown);
    vec![
        name(&pod.namespace),
        pod.pod.as_ref().map_or_else(
            || Cell::new(format!("unidentified, cgroup {}", pod.cgroup)),
            |name| Cell::new(escape(name.as_bytes()) + if pod.started_unguarded { " *" } else { "" }),
        ),
        name(&pod.service_account),
        style::outcome_cell(&ruling.verdict, &ruling.mode),
        Cell::new(&ruling.rule),
    ]
}
