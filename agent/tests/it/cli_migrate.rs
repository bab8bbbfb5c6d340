//! `hsm-agent token migrate`, and records in clear, on SoftHSM.

use crate::node::Node;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn records_of_others_are_migrated_when_that_is_meant() {
    let node = Node::with_token();
    node.put("secrets/ns/ours", "k", "v");
    // As the Go operator wrote it.
    node.foreign_object("secrets/ns/old/password", b"s3cr3t");
    node.foreign_object("secrets/ns/old/username", b"admin");
    node.foreign_object("secrets/ns/old/_metadata", br#"{"labels":{"sync.version":"3"}}"#);
    assert_eq!(node.ok(&["get", "secrets/ns/old", "--key", "password"]), "s3cr3t", "read as it is");
    let before = node.ok(&["doctor"]);
    assert!(before.contains("1 foreign"), "{before}");

    // Nobody can be asked: it says what would be done.
    let said = node.ok(&["migrate"]);
    assert!(said.contains("would be migrated") && said.contains("dry run"), "{said}");
    let dry = json(&node.ok(&["migrate", "--dry-run", "-o", "json"]));
    assert_eq!((&dry["dryRun"], &dry["items"][0]["objects"]), (&true.into(), &3.into()));
    assert!(node.ok(&["doctor"]).contains("1 foreign"));

    let done = json(&node.ok(&["migrate", "--yes", "-o", "json"]));
    assert_eq!((&done["items"][0]["result"], &done["objectsFreed"]), (&"migrated".into(), &3.into()));
    assert!(!done.to_string().contains("s3cr3t"));
    assert_eq!(node.ok(&["get", "secrets/ns/old", "--key", "username"]), "admin");
    assert!(node.ok(&["doctor"]).contains("2 sealed, 0 plain, 0 foreign"));
    assert!(node.ok(&["migrate", "--yes"]).contains("0 record(s)"));
}

#[test]
fn a_record_in_clear_is_written_only_when_asked() {
    let node = Node::with_token();
    node.ok_with(&["put", "secrets/ns/plain", "--from-file", "k=-", "--encryption", "none"], b"v");
    node.put("secrets/ns/sealed", "k", "v");
    assert_eq!(node.ok(&["get", "secrets/ns/plain", "--key", "k"]), "v");
    assert!(node.ok(&["doctor"]).contains("1 sealed, 1 plain, 0 foreign"));
    let large = vec![b'x'; 3000];
    let refused =
        node.token(&["put", "secrets/ns/large", "--from-file", "k=-", "--encryption", "none"], &large);
    assert_eq!(refused.status.code(), Some(1));
    node.fails(&["get", "secrets/ns/large"], 3);
}
