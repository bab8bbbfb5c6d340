//! `kubectl hsm version`.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::args::{Global, Output};
use crate::output;

/// What a program says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Version {
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

#[derive(Debug, Serialize)]
struct Both {
    client: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Version>,
}

pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    if global.output == Output::Name {
        return Err(Failure::Usage("a version has no name: use -o table, json or yaml".to_owned()));
    }
    let client = Version { version: env!("CARGO_PKG_VERSION").to_owned(), commit: None };
    let mut both = Both { client, server: None };
    let asked = global.server.as_ref().map(|server| server.get("version")).transpose();
    let missing = match asked {
        Ok(server) => {
            both.server = server;
            None
        }
        Err(error) => Some(error),
    };
    // Our own version is known whatever the controller says.
    match global.output {
        Output::Json => output::json(&both)?,
        Output::Yaml => output::yaml(&both)?,
        Output::Table | Output::Wide | Output::Name => output::raw(table(&both).as_bytes())?,
    }
    missing.map_or(Ok(()), |error| Err(error.into()))
}

fn table(both: &Both) -> String {
    let mut text = line("Client:", &both.client);
    if let Some(server) = &both.server {
        text += &line("Server:", server);
    }
    text
}

fn line(side: &str, Version { version, commit }: &Version) -> String {
    match commit {
        Some(commit) => format!("{side} {version} ({commit})\n"),
        None => format!("{side} {version}\n"),
    }
}
