//! The AWS SDK for Rust, looking for credentials as an application in a pod does.
//!
//! It is a crate of its own so that only those who run it wait for the SDK to build. IMDS and the Pod Identity
//! agent speak plain HTTP, so the SDK is built without TLS: a credential path that needs HTTPS fails here.

use std::process::ExitCode;
use std::time::Instant;

use aws_config::BehaviorVersion;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use clap::{Parser, ValueEnum};

/// Asks the AWS SDK for credentials and says how long that took
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the SDK looks
    #[arg(default_value = "default-chain")]
    from: Source,
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// IMDS and nothing else
    Imds,
    /// Wherever an application finds them: environment, web identity, container, IMDS
    DefaultChain,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments { from } = Arguments::parse();
    let started = Instant::now();
    let found = match provider(from).await {
        Some(provider) => provider.provide_credentials().await,
        None => Err(CredentialsError::not_loaded("the chain is empty")),
    };
    let milliseconds = started.elapsed().as_millis();
    match found {
        Ok(credentials) => {
            println!("credentials {} in {milliseconds} ms", credentials.access_key_id());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error in {milliseconds} ms: {:#}", anyhow::Error::new(error));
            ExitCode::FAILURE
        }
    }
}

async fn provider(from: Source) -> Option<SharedCredentialsProvider> {
    let http = aws_smithy_http_client::Builder::new().build_http();
    match from {
        Source::Imds => {
            let config = ProviderConfig::without_region().with_http_client(http);
            let imds = ImdsCredentialsProvider::builder().configure(&config).build();
            Some(SharedCredentialsProvider::new(imds))
        }
        Source::DefaultChain => aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .load()
            .await
            .credentials_provider(),
    }
}
