//! `hsm-agent token` on SoftHSM.

use crate::node::Node;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_record_is_put_listed_got_and_deleted() {
    let node = Node::with_token();
    let path = "secrets/ns/db";
    node.put(path, "password", "s3cr3t");
    node.put(path, "username", "admin");
    assert_eq!(node.ok(&["list", "-o", "name"]), "secrets/ns/db\n");
    assert_eq!(node.ok(&["get", path, "--key", "password"]), "s3cr3t", "put merges keys");

    let masked = node.ok(&["get", path, "-o", "json"]);
    assert!(!masked.contains("czNjcjN0") && !masked.contains("\"data\""));
    assert!(!node.ok(&["get", path]).contains("s3cr3t"));
    let shown = json(&node.ok(&["get", path, "-o", "json", "--show-values"]));
    assert_eq!(shown["data"]["password"], "czNjcjN0");
    assert!(shown["checksum"].as_str().unwrap().starts_with("sha256:"));

    let version = shown["version"].as_str().unwrap();
    node.ok_with(&["put", path, "--from-file", "password=-", "--expect-version", version], b"new");
    let stale = node.token(&["put", path, "--from-file", "password=-", "--expect-version", version], b"late");
    assert_eq!(stale.status.code(), Some(4), "a stale version is a conflict");
    assert_eq!(node.ok(&["get", path, "--key", "password"]), "new");

    node.ok(&["delete", path, "--key", "username"]);
    node.fails(&["get", path, "--key", "username"], 3);
    node.ok(&["delete", path]);
    node.fails(&["get", path], 3);
    node.fails(&["delete", path], 3);
    node.ok(&["delete", path, "--ignore-not-found"]);
    assert_eq!(node.ok(&["list", "-o", "name"]), "");
    node.ok(&["doctor"]);
}

#[test]
fn replace_drops_other_keys_and_values_are_exact() {
    let node = Node::with_token();
    let bytes: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    let file = node.path("tls.crt");
    std::fs::write(&file, &bytes).unwrap();
    node.put("a", "old", "x");
    node.ok(&["put", "a", "--replace", "--from-file", file.to_str().unwrap()]);
    let got = node.token(&["get", "a", "--key", "tls.crt"], b"");
    assert!(got.stdout == bytes, "byte-exact, nothing else on stdout");
    node.fails(&["get", "a", "--key", "old"], 3);
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let node = Node::with_token();
    assert!(node.fails(&["put", "a"], 2).contains("--from-file"));
    assert!(node.fails(&["get", "a//b"], 2).contains("segment"));
    let key = node.token(&["put", "a", "--from-file", "schlüssel=-"], b"x");
    assert_eq!(key.status.code(), Some(2));
    assert!(node.fails(&["--token-label", "nobody", "list"], 1).contains("nobody"));
    assert!(node.fails(&["--module", "/nowhere.so", "list"], 1).contains("/nowhere.so"));
    assert!(node.fails(&["init", "--yes"], 1).contains("not blank"));
    let large = vec![b'x'; 300_000];
    let large = node.token(&["put", "a", "--from-file", "k=-"], &large);
    assert_eq!(large.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&large.stderr).contains("at most"));
}

#[test]
fn a_wrong_pin_is_tried_once_also_by_the_command_line() {
    let node = Node::with_token();
    let right = node.pin();
    std::fs::write(node.path("pin"), "wrong-pin-1\n").unwrap();
    node.fails(&["list"], 1);
    assert!(node.fails(&["list"], 1).contains("not tried again"));
    std::fs::write(node.path("pin"), right).unwrap();
    node.ok(&["list"]);
}

#[test]
fn the_pin_can_be_changed() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let new = node.path("new");
    std::fs::write(&new, "another-pin-22\n").unwrap();
    node.ok(&["change-pin", "--new-pin-file", new.to_str().unwrap()]);
    node.fails(&["list"], 1);
    std::fs::copy(&new, node.path("pin")).unwrap();
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");
}
