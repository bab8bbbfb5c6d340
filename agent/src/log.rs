//! Log lines: to stderr, JSON or text. Messages are sentences; data goes into fields.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

static STARTED: OnceLock<LogFormat> = OnceLock::new();

/// The form that logging was started with, which the token worker's lines have as well; `None` before.
pub fn format() -> Option<LogFormat> {
    STARTED.get().copied()
}

/// Starts logging for this process. `level` is a level or a filter.
pub fn start(format: LogFormat, level: &str) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(level).map_err(|e| {
        ConfigError::new(format!("--log-level {level:?} is not a level or filter ({e}); try info or debug"))
    })?;
    // Below info these libraries may show what goes over the wire: payloads are in there.
    let filter = ["h2", "hyper", "hyper_util", "tonic", "rustls", "prost", "axum", "tower"]
        .iter()
        .filter_map(|library| format!("{library}=info").parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    started.map_err(|e| ConfigError::new(format!("logging was started twice: {e}")))?;
    STARTED.get_or_init(|| format);
    Ok(())
}
