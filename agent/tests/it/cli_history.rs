//! `hsm-agent token history` and `restore` on SoftHSM.

use crate::node::Node;

fn versions(node: &Node, path: &str) -> Vec<String> {
    node.ok(&["history", path, "-o", "name"]).lines().map(str::to_owned).collect()
}

#[test]
fn earlier_values_are_kept_shown_and_restored() {
    let node = Node::with_token();
    for value in ["1", "2", "3", "4", "5"] {
        node.put("a", "k", value);
    }
    let kept = versions(&node, "a");
    assert_eq!(kept.len(), 4, "the current one and three earlier ones");
    let shown: serde_json::Value = serde_json::from_str(&node.ok(&["history", "a", "-o", "json"])).unwrap();
    let states: Vec<&str> =
        shown["items"].as_array().unwrap().iter().map(|i| i["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["current", "earlier", "earlier", "earlier"]);
    let at = |version: &str| node.ok(&["get", "a", "--version", version, "--key", "k"]);
    assert_eq!(kept.iter().map(|v| at(v)).collect::<Vec<_>>(), ["5", "4", "3", "2"]);
    assert!(node.ok(&["get", "a", "--version", &kept[1]]).contains("********"));

    assert!(node.fails(&["restore", "a", "--version", &kept[2]], 2).contains("--yes"));
    assert!(node.ok(&["restore", "a", "--version", &kept[2], "--dry-run"]).contains("dry run"));
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "5");
    node.ok(&["restore", "a", "--version", &kept[2], "--yes"]);
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "3");
    let after = versions(&node, "a");
    assert_eq!(at(&after[1]), "5", "what it replaced is kept");
    assert_ne!(after[0], kept[2], "it is a new version");

    node.ok_with(&["put", "b", "--from-file", "k=-", "--keep-history", "0"], b"1");
    node.ok_with(&["put", "b", "--from-file", "k=-", "--keep-history", "0"], b"2");
    assert_eq!(versions(&node, "b").len(), 1);
    node.ok(&["delete", "a"]);
    node.fails(&["history", "a"], 3);
    node.fails(&["get", "a", "--version", &kept[0]], 3);
}

#[test]
fn versions_that_are_not_kept_are_not_found() {
    let node = Node::with_token();
    node.put("a", "k", "1");
    node.fails(&["history", "nothing"], 3);
    node.fails(&["restore", "nothing", "--version", "1.1-aaaaaaaaaaaaaaaa-0101010101010101", "--yes"], 3);
    assert!(
        node.fails(&["restore", "a", "--version", "1.1-aaaaaaaaaaaaaaaa-0101010101010101", "--yes"], 3)
            .contains("history a")
    );
    assert!(node.fails(&["get", "a", "--version", "5"], 2).contains("--version"));
    node.fails(&["restore", "a"], 2);
}

#[test]
fn an_export_holds_the_history_too() {
    let node = Node::with_token();
    std::fs::write(node.path("pass"), "correct horse battery\n").unwrap();
    for value in ["1", "2", "3"] {
        node.put("a", "k", value);
    }
    let (pass, out) = (node.path("pass"), node.path("out.age"));
    let said =
        node.ok(&["export", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(said.contains("1 record(s), 2 earlier value(s)"), "{said}");
}
