//! `hsm-agent token export` and `import` on SoftHSM, the program being killed in between.

use std::process::Output;

use crate::node::Node;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// A node with a passphrase file.
fn node() -> Node {
    let node = Node::with_token();
    std::fs::write(node.path("pass"), "correct horse battery\n").unwrap();
    node
}

/// `export` or `import` with the passphrase file.
fn args(node: &Node, verb: &str, rest: &[&str]) -> Vec<String> {
    let pass = node.path("pass").to_str().unwrap().to_owned();
    let words = [verb, "--passphrase-file", &pass];
    words.iter().chain(rest).map(|s| (*s).to_owned()).collect()
}

fn run(node: &Node, args: &[String]) -> Output {
    node.token(&args.iter().map(String::as_str).collect::<Vec<_>>(), b"")
}

fn ok(node: &Node, args: &[String]) -> String {
    node.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn fails(node: &Node, args: &[String], code: i32) -> String {
    node.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code)
}

fn export(node: &Node, out: &str, rest: &[&str]) -> Vec<String> {
    let out = node.path(out);
    let mut all = vec!["--out", out.to_str().unwrap()];
    all.extend(rest);
    args(node, "export", &all)
}

fn import(node: &Node, file: &str, rest: &[&str]) -> Vec<String> {
    let file = node.path(file);
    let mut all = vec![file.to_str().unwrap()];
    all.extend(rest);
    args(node, "import", &all)
}

fn result<'a>(summary: &'a serde_json::Value, path: &str) -> &'a str {
    let items = summary["items"].as_array().unwrap();
    items.iter().find(|i| i["path"] == path).unwrap()["result"].as_str().unwrap()
}

#[test]
fn an_export_goes_onto_another_token_as_it_was() {
    let one = node();
    let large: Vec<u8> = (0..=255).cycle().take(16_000).collect();
    one.put("secrets/a/db", "password", "CANARY-s3cr3t");
    one.put("secrets/a/db", "username", "admin");
    one.ok_with(&["put", "secrets/a/tls", "--from-file", "tls.crt=-"], &large);
    one.put("secrets/b/gone", "k", "v");
    one.ok(&["delete", "secrets/b/gone"]);
    let said = ok(&one, &export(&one, "out.age", &[]));
    assert!(said.contains("2 record(s)") && said.contains("1 tombstone(s)"), "{said}");
    assert!(said.contains("decrypted"), "{said}");
    let file = std::fs::read(one.path("out.age")).unwrap();
    assert!(!file.windows(6).any(|w| w == b"CANARY" || w == b"secret"));

    let two = node();
    std::fs::copy(one.path("out.age"), two.path("in.age")).unwrap();
    let dry = json(&ok(&two, &import(&two, "in.age", &["--dry-run", "-o", "json"])));
    assert_eq!(result(&dry, "secrets/a/db"), "written");
    assert_eq!(two.ok(&["list", "-o", "name"]), "", "a dry run writes nothing");
    let summary = json(&ok(&two, &import(&two, "in.age", &["-o", "json"])));
    assert_eq!(result(&summary, "secrets/a/tls"), "written");
    assert_eq!(summary["tombstones"], 1);
    let (a, b) = (["get", "secrets/a/db", "-o", "json", "--show-values"], ["list", "-o", "json"]);
    assert_eq!(one.ok(&a), two.ok(&a), "version, checksum and values");
    assert_eq!(one.ok(&b), two.ok(&b));
    let got = two.token(&["get", "secrets/a/tls", "--key", "tls.crt"], b"");
    assert!(got.stdout == large);

    let again = json(&ok(&two, &import(&two, "in.age", &["-o", "json"])));
    assert_eq!(result(&again, "secrets/a/db"), "unchanged");
    assert_eq!(again["tombstones"], 0);
    let shown = run(&two, &import(&two, "in.age", &[]));
    let text = String::from_utf8([shown.stdout, shown.stderr].concat()).unwrap();
    assert!(!text.contains("CANARY"), "{text}");
}

#[test]
fn what_is_newer_stays_and_what_differs_is_asked_about() {
    let one = node();
    for path in ["same", "older", "newer", "edited", "deleted"] {
        one.put(path, "k", "1");
    }
    ok(&one, &export(&one, "1.age", &[]));
    one.put("newer", "k", "2");
    one.put("edited", "k", "file");
    ok(&one, &export(&one, "2.age", &[]));

    let two = node();
    for file in ["1.age", "2.age"] {
        std::fs::copy(one.path(file), two.path(file)).unwrap();
    }
    ok(&two, &import(&two, "1.age", &[]));
    two.put("older", "k", "3");
    two.put("edited", "k", "token");
    two.ok(&["delete", "deleted"]);
    let output = run(&two, &import(&two, "2.age", &["-o", "json"]));
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = json(&String::from_utf8(output.stdout).unwrap());
    for (path, expected) in [
        ("same", "unchanged"),
        ("older", "kept"),
        ("newer", "written"),
        ("edited", "conflict"),
        ("deleted", "deleted"),
    ] {
        assert_eq!(result(&summary, path), expected, "{path}");
    }
    let value = |path: &str| two.ok(&["get", path, "--key", "k"]);
    assert_eq!((value("older"), value("newer"), value("edited")), ("3".into(), "2".into(), "token".into()));
    two.fails(&["get", "deleted"], 3);

    let replaced = json(&ok(&two, &import(&two, "2.age", &["--replace", "-o", "json"])));
    assert_eq!((result(&replaced, "edited"), result(&replaced, "deleted")), ("replaced", "replaced"));
    assert_eq!(result(&replaced, "older"), "kept");
    assert_eq!((value("older"), value("edited"), value("deleted")), ("3".into(), "file".into(), "1".into()));
    // The same again changes nothing.
    let again = json(&ok(&two, &import(&two, "2.age", &["--replace", "-o", "json"])));
    for item in again["items"].as_array().unwrap() {
        assert!(["unchanged", "kept"].contains(&item["result"].as_str().unwrap()), "{item}");
    }
    // All that differs: nothing is done, and that is a conflict, not a part.
    let three = node();
    three.put("edited", "k", "three");
    one.ok(&["delete", "same"]);
    ok(&one, &export(&one, "3.age", &["edited"]));
    std::fs::copy(one.path("3.age"), three.path("3.age")).unwrap();
    assert!(fails(&three, &import(&three, "3.age", &[]), 4).contains("conflict"));
}

#[test]
fn deletions_in_the_file_are_asked_about() {
    let one = node();
    one.put("a", "k", "v");
    ok(&one, &export(&one, "1.age", &[]));
    one.ok(&["delete", "a"]);
    ok(&one, &export(&one, "2.age", &[]));
    let two = node();
    for file in ["1.age", "2.age"] {
        std::fs::copy(one.path(file), two.path(file)).unwrap();
    }
    ok(&two, &import(&two, "1.age", &[]));
    assert!(fails(&two, &import(&two, "2.age", &[]), 2).contains("--yes"));
    assert_eq!(two.ok(&["get", "a", "--key", "k"]), "v");
    let dry = ok(&two, &import(&two, "2.age", &["--dry-run"]));
    assert!(dry.contains("deleted: a"), "{dry}");
    ok(&two, &import(&two, "2.age", &["--yes"]));
    two.fails(&["get", "a"], 3);
    let old = ok(&two, &import(&two, "1.age", &[]));
    assert!(old.contains("stays deleted: a"), "{old}");
}

#[test]
fn bad_files_and_flags_change_nothing() {
    let node = node();
    node.put("a", "k", "v");
    let out = node.path("out.age");
    let out = out.to_str().unwrap();
    node.fails(&["export", "--out", out], 2);
    node.fails(&["import", out], 2);
    assert!(node.fails(&["export", "--recipient", "age1x", "--out", out], 2).contains("age1x"));
    assert!(fails(&node, &args(&node, "export", &["--out", "/nowhere/x"]), 1).contains("/nowhere/x.part"));
    ok(&node, &export(&node, "out.age", &[]));
    let before = std::fs::read(node.path("out.age")).unwrap();
    assert!(fails(&node, &export(&node, "out.age", &[]), 2).contains("--force"));
    assert_eq!(std::fs::read(node.path("out.age")).unwrap(), before);
    ok(&node, &export(&node, "out.age", &["--force"]));
    assert!(fails(&node, &import(&node, "nothing.age", &[]), 1).contains("nothing.age"));
    std::fs::write(node.path("text"), "no export").unwrap();
    assert!(fails(&node, &import(&node, "text", &[]), 1).contains("not an encrypted export"));
    let whole = std::fs::read(node.path("out.age")).unwrap();
    std::fs::write(node.path("cut"), &whole[..whole.len() - 1]).unwrap();
    assert!(fails(&node, &import(&node, "cut", &[]), 1).contains("cut short"));
    std::fs::write(node.path("pass"), "another passphrase\n").unwrap();
    assert!(fails(&node, &import(&node, "out.age", &[]), 1).contains("passphrase"));
    std::fs::remove_file(node.path("pass")).unwrap();
    assert!(fails(&node, &import(&node, "out.age", &[]), 2).contains("cannot be read"));
}

#[test]
fn recipients_and_identities() {
    use age::secrecy::ExposeSecret as _;
    let node = node();
    node.put("a", "k", "v");
    let (mine, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let key = |name: &str, identity: &age::x25519::Identity| {
        std::fs::write(node.path(name), identity.to_string().expose_secret()).unwrap();
        node.path(name).to_str().unwrap().to_owned()
    };
    let (mine_file, other_file) = (key("mine", &mine), key("other", &other));
    let out = node.path("out.age").to_str().unwrap().to_owned();
    let mine = mine.to_public().to_string();
    let said = node.ok(&["export", "--recipient", &mine, "--out", &out]);
    assert!(said.contains("only its recipients"), "{said}");
    let checked =
        ["export", "--recipient", &mine, "--identity", &mine_file, "--out", &out, "--force", "-o", "json"];
    assert_eq!(json(&node.ok(&checked))["verified"], "decrypted");
    let before = std::fs::read(&out).unwrap();
    let wrong = ["export", "--recipient", &mine, "--identity", &other_file, "--out", &out, "--force"];
    assert!(node.fails(&wrong, 1).contains("none of the identities"));
    assert_eq!(std::fs::read(&out).unwrap(), before, "an export that cannot be checked does not replace one");
    node.ok(&["import", "--identity", &mine_file, &out]);
    assert!(node.fails(&["import", "--identity", &other_file, &out], 1).contains("recipients"));
    assert!(fails(&node, &import(&node, "out.age", &[]), 1).contains("--identity"));
}
