//! What a person or a script sees. The one place that writes to stdout and stderr.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::args::Format;
use crate::config::{COMMIT, VERSION};

/// A line on stdout. A reader that has gone is no error of ours.
pub(super) fn say(line: &str) {
    drop(writeln!(io::stdout().lock(), "{line}"));
}

/// Bytes on stdout as they are.
pub(super) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// What went wrong, on stderr.
pub fn complain(message: &str) {
    drop(writeln!(io::stderr().lock(), "hsm-agent: {message}"));
}

/// A remark on stderr.
pub(super) fn remark(message: &str) {
    drop(writeln!(io::stderr().lock(), "{message}"));
}

/// `hsm-agent version`.
pub fn print_version() -> ExitCode {
    say(&format!("hsm-agent {VERSION} ({COMMIT})"));
    ExitCode::SUCCESS
}

/// Whether somebody can be asked, or shown what nobody else may see.
pub(super) fn terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal.
fn confirm(question: &str) -> io::Result<bool> {
    drop(write!(io::stderr().lock(), "{question} [y/N] "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Asks whether it is to be done. Nobody is there to answer: only with --yes.
pub(super) fn agree(question: &str, yes: bool) -> Result<(), super::Failure> {
    if yes {
        return Ok(());
    }
    if !terminal() {
        return Err(super::Failure::Usage(format!(
            "{question} Nobody can be asked here; add --yes if that is meant"
        )));
    }
    if confirm(question)? { Ok(()) } else { Err(super::Failure::Other("nothing was changed".to_owned())) }
}

/// A JSON or YAML document.
pub(super) fn document(format: Format, value: &impl serde::Serialize) -> Result<(), super::Failure> {
    let text = if format == Format::Yaml {
        serde_saphyr::to_string(value).map_err(|e| super::Failure::Other(e.to_string()))?
    } else {
        serde_json::to_string_pretty(value).map_err(|e| super::Failure::Other(e.to_string()))?
    };
    say(text.trim_end());
    Ok(())
}

/// Columns, padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    for line in columns(head, rows) {
        say(&line);
    }
}

fn columns(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |i: usize| {
        rows.iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count())
            .chain([head[i].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("   ").trim_end().to_owned()
    };
    std::iter::once(line(head.to_vec()))
        .chain(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["secrets/a/b".to_owned(), "1".to_owned()], vec!["x".to_owned(), "22".to_owned()]];
        assert_eq!(
            columns(&["PATH", "KEYS"], &rows),
            ["PATH          KEYS", "secrets/a/b   1", "x             22"]
        );
    }
}
