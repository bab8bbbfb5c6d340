//! `hack/bench`: the figures, each beside a floor or another layout that is measured in the same run.

#![allow(clippy::print_stdout, reason = "it prints figures")]

mod sync;
mod token;
mod wear;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    match what.as_str() {
        "sync" => {
            let count =
                arguments.next().map_or(Ok(300), |n| n.parse()).context("the number of HSMSecrets")?;
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            tokio::runtime::Runtime::new()?.block_on(sync::sync(count))
        }
        "token" => token::token(),
        _ => bail!("usage: hack/bench sync [N] | hack/bench token"),
    }
}
