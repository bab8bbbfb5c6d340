//! Reading `cargo tree --prefix depth --format ' {p}'`: each line is a depth, a space and a package.

use std::fmt;

/// The way by which a crate came in, from the crate that was asked about to the offender.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain(Vec<String>);

impl Chain {
    pub(super) fn offender(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" → "))
    }
}

/// The first chain to each forbidden crate in the tree. The roots are not offenders.
pub(super) fn offences(tree: &str, never: &[&str]) -> Vec<Chain> {
    let mut way: Vec<String> = Vec::new();
    let mut found: Vec<Chain> = Vec::new();
    for (depth, name) in tree.lines().filter_map(line) {
        way.truncate(depth);
        way.push(name.to_owned());
        let forbidden = depth > 0 && never.iter().any(|pattern| matches(pattern, name));
        if forbidden && !found.iter().any(|chain| chain.offender() == name) {
            found.push(Chain(way.clone()));
        }
    }
    found
}

/// `12 tokio v1.54.0 (*)` → depth and name; nothing for an empty line between two roots.
fn line(text: &str) -> Option<(usize, &str)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
0 hsm-agent v0.1.0 (/house/agent)
1 hsm-store v0.1.0 (/house/agent/store)
2 hsm-types v0.1.0 (/house/proto/types)
1 tower v0.5.3
2 kube-core v5.0.0
3 kube-derive v5.0.0 (proc-macro)
1 kube-core v5.0.0 (*)

0 kube-free v1.0.0
1 kubelike v1.0.0
";

    #[test]
    fn the_way_to_the_offender_is_told_once() {
        let found = offences(TREE, &["kube-core", "cryptoki"]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "hsm-agent → tower → kube-core");
    }

    #[test]
    fn a_star_stands_for_anything_and_a_name_only_for_itself() {
        let chains = |never| offences(TREE, never).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(chains(&["kube"]), Vec::<String>::new());
        assert_eq!(
            chains(&["kube*"]),
            [
                "hsm-agent → tower → kube-core",
                "hsm-agent → tower → kube-core → kube-derive",
                "kube-free → kubelike",
            ]
        );
        assert_eq!(chains(&["hsm-agent"]), Vec::<String>::new(), "a crate may know itself");
    }
}
