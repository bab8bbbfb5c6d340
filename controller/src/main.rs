//! `hsm-controller`: parses the command line, and runs.

use std::process::ExitCode;

use clap::Parser as _;
use hsm_controller::config::{Args, Command};
use hsm_controller::{COMMIT, VERSION, logs, run};

fn main() -> ExitCode {
    let args = match Args::parse().command {
        Command::Version => {
            let line = format!("hsm-controller {VERSION} ({COMMIT})\n");
            return match std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
        Command::Run(args) => *args,
    };
    logs::init(args.log_format, &args.log_level);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::error!("another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let done = args.check().and_then(|config| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(run(config));
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        result
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the controller ends");
            ExitCode::FAILURE
        }
    }
}
