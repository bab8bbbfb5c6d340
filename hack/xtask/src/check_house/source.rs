//! Reading the source of a pure crate for what needs no dependency: the standard library's clock, files and network.

use std::path::Path;

use anyhow::Context as _;

use super::rules::IMPURE;

/// Every line below `folder` that names something impure.
pub(super) fn offences(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            broken.extend(offences(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let told = impure(&text).map(|(line, word)| format!("{}:{line} names {word}", path.display()));
            broken.extend(told);
        }
    }
    Ok(broken)
}

fn impure(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    let code: Vec<String> = text.lines().map(code).collect();
    let mut found = Vec::new();
    let mut in_std_group = false;
    for (number, line) in code.iter().enumerate() {
        let words = IMPURE.iter().filter(|word| names(line, word));
        found.extend(words.map(|word| (number + 1, *word)));
        // `use std::{env, fs}` names the modules one by one, perhaps over several lines.
        in_std_group |= line.contains("std::{");
        if in_std_group {
            let members =
                IMPURE.iter().filter(|word| word.strip_prefix("std::").is_some_and(|m| names(line, m)));
            found.extend(members.map(|word| (number + 1, *word)));
            in_std_group = !line.contains(';');
        }
    }
    found.into_iter()
}

/// The line without its comment.
fn code(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_owned()
}

/// Whether the word stands alone in the line: not inside a longer name.
fn names(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(usize, &'static str)> {
        impure(text).collect()
    }

    #[test]
    fn a_clock_a_file_and_a_group_are_found() {
        assert_eq!(words("let now = std::time::SystemTime::now();"), [(1, "SystemTime")]);
        assert_eq!(words("\nstd::fs::read(path)"), [(2, "std::fs")]);
        assert_eq!(words("use std::{collections::BTreeMap, env};"), [(1, "std::env")]);
        assert_eq!(words("use std::{\n    fmt,\n    net::IpAddr,\n};\nlet fs = 1;"), [(3, "std::net")]);
    }

    #[test]
    fn words_in_longer_names_and_in_comments_are_not() {
        assert_eq!(words("TokenId::from_random(bytes) // SystemTime\n/// rand"), []);
        assert_eq!(words("use std::fmt;\nlet random_instants = InstantNoodles;"), []);
    }
}
