use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::place::Place;
use crate::process::Process;
use crate::simulator::IMDS_V4;
use crate::wait::wait_for;

const START_WITHIN: Duration = Duration::from_secs(10);

/// An nginx of one process, with no files but its own. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Nginx {
    _process: Process,
    _folder: TempDir,
}

impl Nginx {
    /// Stands in for IMDS: the region at every path. The simulator keeps a record, which would be what is measured.
    pub(super) fn imds(place: &Place) -> Result<Self> {
        let address = SocketAddr::from((IMDS_V4, 80));
        let server = format!(
            "server {{
                listen {address} backlog=4096;
                default_type text/plain;
                location / {{ return 200 \"eu-west-1\"; }}
            }}"
        );
        Self::start(place, address, &server)
    }

    /// Filters as the gate does: whoever looks up the region is passed on, everybody else gets a 403.
    pub(super) fn filter(place: &Place, address: SocketAddr) -> Result<Self> {
        let server = format!(
            "upstream imds {{
                server {IMDS_V4}:80;
                keepalive 64;
                keepalive_requests 1000000000;
            }}
            server {{
                listen {address} backlog=4096;
                default_type text/plain;
                proxy_http_version 1.1;
                proxy_set_header Connection \"\";
                location = /latest/api/token {{ proxy_pass http://imds; }}
                location ~ ^/[^/]+/meta-data/placement/(region|availability-zone[^/]*)$ {{
                    proxy_pass http://imds;
                }}
                location / {{ return 403 \"denied by the rule region-only\\n\"; }}
            }}"
        );
        Self::start(place, address, &server)
    }

    /// Returns once it listens.
    fn start(place: &Place, address: SocketAddr, server: &str) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("imds-guard-nginx-").tempdir().context("make a folder")?;
        let configuration = folder.path().join("nginx.conf");
        let temporary: Vec<String> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .to_vec();
        let text = format!(
            "daemon off;
            master_process off;
            pid nginx.pid;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                keepalive_requests 1000000000;
                {}
                {server}
            }}",
            temporary.concat()
        );
        fs::write(&configuration, text).with_context(|| format!("write {}", configuration.display()))?;
        let mut command = Command::new("nginx");
        command
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut process = place.spawn(command).context("`cargo xtask bench gate` installs nginx")?;
        let listening = wait_for(START_WITHIN, "nginx to listen", || {
            if !process.is_running() {
                return Some(false);
            }
            let connect = || Ok(TcpStream::connect(address).is_ok());
            place.namespace().run(connect).is_ok_and(|connected| connected).then_some(true)
        })?;
        if !listening {
            bail!("nginx ended, for {address}");
        }
        Ok(Self { _process: process, _folder: folder })
    }
}
