//! The AWS SDK for Rust, looking for credentials or for the region as an application in a pod does.
//!
//! It is a crate of its own so that only those who run it wait for the SDK to build. IMDS and the Pod Identity
//! agent speak plain HTTP, so the SDK is built without TLS: a credential path that needs HTTPS fails here.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aws_config::BehaviorVersion;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use clap::{Parser, ValueEnum};
use serde_json::json;

/// Asks the AWS SDK for credentials or for the region, and says how long that took
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// What the SDK looks for
    #[arg(default_value = "credentials")]
    what: What,
    /// Say it in JSON, and call it no failure when nothing is found
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Credentials, wherever an application finds them: environment, web identity, container, IMDS
    Credentials,
    /// The region, which IMDS knows
    Region,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments { what, json } = Arguments::parse();
    let started = Instant::now();
    let found = match what {
        What::Credentials => credentials().await,
        What::Region => region().await,
    };
    let took = started.elapsed();
    if json { print_json(found, took) } else { print(what, found, took) }
}

fn print(what: What, found: Result<String>, took: Duration) -> ExitCode {
    let milliseconds = took.as_millis();
    match found {
        Ok(found) => {
            let what = match what {
                What::Credentials => "credentials",
                What::Region => "region",
            };
            println!("{what} {found} in {milliseconds} ms");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error in {milliseconds} ms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_json(found: Result<String>, took: Duration) -> ExitCode {
    let (found, error) = match found {
        Ok(found) => (Some(found), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    println!("{}", json!({ "found": found, "error": error, "milliseconds": took.as_secs_f64() * 1e3 }));
    ExitCode::SUCCESS
}

async fn credentials() -> Result<String> {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(http).load().await;
    let provider = config.credentials_provider().context("the chain is empty")?;
    Ok(provider.provide_credentials().await?.access_key_id().to_owned())
}

async fn region() -> Result<String> {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = ProviderConfig::without_region().with_http_client(http);
    let region = ImdsRegionProvider::builder().configure(&config).build().region().await;
    // The SDK keeps the reason to itself.
    Ok(region.context("IMDS told no region")?.to_string())
}
