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
fn what_a_token_is_is_told_without_a_pin() {
    let node = Node::with_token();
    std::fs::remove_file(node.path("pin")).unwrap();
    let info = json(&node.ok(&["info", "-o", "json"]));
    assert_eq!((&info["label"], &info["blank"], &info["pin"]), (&"test".into(), &"no".into(), &"ok".into()));
    let id = info["token"].as_str().unwrap();
    assert_eq!(node.ok(&["info", "-o", "name"]).trim(), id);
    assert_eq!(id.len(), 36, "a UUID");
    node.fails(&["list"], 1);
}

#[test]
fn a_token_is_found_by_its_identity_among_several() {
    let node = Node::with_token();
    let other =
        ["--token-label", "other", "--pin-file", node.path("pin2").to_str().unwrap()].map(str::to_owned);
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    node.ok(&[&other[..], &["init", "--yes"]].concat());
    let id = |label: &str| node.ok(&["--token-label", label, "info", "-o", "name"]).trim().to_owned();
    let (one, two) = (id("test"), id("other"));
    assert_ne!(one, two);
    let by_id = |id: &str| {
        let output = node.token_without_label(&["--token-id", id, "info", "-o", "json"]);
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    assert_eq!(json(&by_id(&one).1)["label"], "test");
    assert_eq!(json(&by_id(&two).1)["label"], "other");
    let (code, said) = by_id("6f9b2d1e-8c3a-4e57-9b1d-0a2f4c6e8d10");
    assert!(code == Some(1) && said.contains("none of the module's tokens"), "{said}");
    // The label says one, the identity the other: no PIN is given.
    assert!(node.fails(&["--token-id", &two, "list"], 1).contains("no PIN was given"));
    let both = node.token(&["--slot", "1", "list"], b"");
    assert!(both.status.code() == Some(2) && String::from_utf8_lossy(&both.stderr).contains("--reader"));
}

#[test]
fn what_was_forgotten_gets_no_pin_until_it_is_admitted() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let id = node.ok(&["info", "-o", "name"]).trim().to_owned();
    assert!(node.fails(&["forget", &id], 2).contains("--yes"));
    assert!(node.fails(&["forget", "nonsense", "--yes"], 2).contains("UUID"));
    assert!(node.fails(&["forget"], 2).contains("TOKEN_ID"));
    node.ok(&["forget", &id, "--yes"]);
    assert!(node.fails(&["get", "a"], 1).contains("was forgotten"));
    assert!(node.fails(&["admit"], 2).contains("in quarantine"));
    let said = node.ok(&["admit", "--yes"]);
    let fingerprint = said.lines().find_map(|l| l.strip_prefix("store key ")).unwrap().to_owned();
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");
    // A store key that is pinned before is not taken on trust later.
    node.ok(&["admit", "--yes", "--fingerprint", &"0".repeat(32)]);
    assert!(node.fails(&["get", "a"], 1).contains(&fingerprint));
    node.ok(&["admit", "--yes", "--fingerprint", &fingerprint]);
    node.ok(&["get", "a"]);
    node.fails(&["admit", "--yes", "--fingerprint", "x"], 2);
}

#[test]
fn a_deletion_is_forgotten_only_when_that_is_meant() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    assert!(node.fails(&["forget", "--tombstone", "a", "--yes"], 3).contains("no tombstone"));
    node.ok(&["delete", "a"]);
    assert!(node.fails(&["forget", "--tombstone", "a"], 2).contains("brings it back"));
    node.ok(&["forget", "--tombstone", "a", "--yes"]);
    node.fails(&["forget", "--tombstone", "a", "--yes"], 3);
    assert!(node.ok(&["doctor"]).contains("tombstones   0"));
}

#[test]
fn shells_are_given_their_completions() {
    let node = Node::new();
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef hsm-agent"), ("fish", "complete -c hsm-agent")]
    {
        let script = node.agent(&["completion", shell]);
        assert!(script.contains(word) && script.contains("export"), "{shell}");
    }
}

#[test]
fn a_lost_tokens_identity_is_given_to_another() {
    let node = Node::new();
    let id = "6f9b2d1e-8c3a-4e57-9b1d-0a2f4c6e8d10";
    assert!(node.fails(&["--token-id", id, "init"], 2).contains("--yes"));
    let so_pin = node.path("so").to_str().unwrap().to_owned();
    let said = node.ok(&["--token-id", id, "init", "--yes", "--so-pin-file", &so_pin]);
    assert!(said.contains(id), "{said}");
    assert_eq!(node.ok(&["--token-id", id, "info", "-o", "name"]).trim(), id);
    assert_eq!(std::fs::read_to_string(&so_pin).unwrap().trim().len(), 15);
    assert!(!said.contains(std::fs::read_to_string(&so_pin).unwrap().trim()));
    node.put("a", "k", "v");
    // What holds a store is never made anew, under whatever name.
    let other = "00000000-0000-4000-8000-000000000000";
    assert!(node.fails(&["--token-id", other, "init", "--yes"], 1).contains("not blank"));
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");
}

#[test]
fn a_card_is_only_made_where_there_is_one() {
    let node = Node::new();
    let said = node.token_without_label(&["--reader", "No such reader 00 00", "init", "--yes"]);
    assert_eq!(said.status.code(), Some(1), "{}", String::from_utf8_lossy(&said.stderr));
    let said = node.token_without_label(&["init", "--yes"]);
    assert_eq!(said.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&said.stderr).contains("--reader NAME"));
    let node = Node::with_token();
    assert!(node.ok(&["doctor", "--repair"]).contains("no ghosts"));
}
