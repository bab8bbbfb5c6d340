//! `hsm-agent token compact` on SoftHSM, killed at points all along the way.

use crate::kill::{killed_when, objects};
use crate::node::Node;

const RECORDS: usize = 10;

fn filled() -> Node {
    let node = Node::with_token();
    std::fs::write(node.path("pass"), "correct horse battery\n").unwrap();
    for number in 0..RECORDS {
        node.put(&format!("secrets/a/{number}"), "k", &format!("value-{number}"));
    }
    let large: Vec<u8> = (0..=255).cycle().take(9_000).collect();
    node.ok_with(&["put", "secrets/a/tls", "--from-file", "tls.crt=-"], &large);
    node.put("secrets/a/gone", "k", "v");
    node.ok(&["delete", "secrets/a/gone"]);
    node
}

struct Args(Vec<String>);

impl Args {
    fn new(node: &Node, out: &str, more: &[&str]) -> Self {
        let (pass, out) = (node.path("pass"), node.path(out));
        let words =
            ["compact", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap(), "--yes"];
        Self(words.iter().chain(more).map(|s| (*s).to_owned()).collect())
    }

    fn words(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

fn doctor(node: &Node) -> serde_json::Value {
    serde_json::from_str(&node.ok(&["doctor", "-o", "json"])).unwrap()
}

#[test]
fn a_compacted_token_holds_what_it_held() {
    for more in [&[][..], &["--reformat"]] {
        let node = filled();
        let before = (node.ok(&["list", "-o", "json"]), doctor(&node));
        let args = Args::new(&node, "out.age", more);
        let without = &args.words()[..5];
        assert!(node.fails(without, 2).contains("--yes"));
        let said = node.ok(&args.words());
        assert!(said.contains(&format!("{} record(s), 1 tombstone(s)", RECORDS + 1)), "{said}");
        let after = (node.ok(&["list", "-o", "json"]), doctor(&node));
        assert_eq!(before.0, after.0, "versions and checksums");
        assert_eq!(before.1["token"], after.1["token"]);
        assert_eq!(before.1["fingerprint"] != after.1["fingerprint"], more == ["--reformat"]);
        assert_eq!(node.ok(&["get", "secrets/a/3", "--key", "k"]), "value-3");
        node.fails(&["get", "secrets/a/gone"], 3);
        // A second time, with a file that says the same: nothing is lost.
        node.ok(&args.words());
        assert_eq!(before.0, node.ok(&["list", "-o", "json"]));
    }
}

#[test]
fn nothing_is_destroyed_on_the_word_of_an_old_or_foreign_export() {
    let node = filled();
    let args = Args::new(&node, "out.age", &[]);
    let (pass, out) = (node.path("pass"), node.path("out.age"));
    let export = ["export", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap()];
    node.ok(&export);
    node.put("secrets/a/new", "k", "v");
    assert!(node.fails(&args.words(), 1).contains("changed since"));
    assert_eq!(node.ok(&["get", "secrets/a/new", "--key", "k"]), "v");
    let other = filled();
    std::fs::copy(node.path("out.age"), other.path("out.age")).unwrap();
    assert!(other.fails(&Args::new(&other, "out.age", &[]).words(), 1).contains("an export of"));
    std::fs::remove_file(&out).unwrap();
    node.ok(&[&export[..], &["secrets/a/1"]].concat());
    assert!(node.fails(&args.words(), 1).contains("everything"));
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    let to = ["compact", "--recipient", &recipient, "--out", "/nowhere", "--yes"];
    assert!(node.fails(&to, 2).contains("--identity"));
    assert!(node.ok(&["list", "-o", "name"]).lines().count() == RECORDS + 2);
}

#[test]
fn a_compaction_that_is_killed_anywhere_goes_on() {
    for more in [&[][..], &["--reformat"]] {
        let node = filled();
        let before = node.ok(&["list", "-o", "json"]);
        let (args, out, tokens) =
            (Args::new(&node, "out.age", more), node.path("out.age"), node.path("tokens"));
        let all = objects(&tokens);
        let unknown_or_all = |when: &str| {
            let listed = node.token(&["list", "-o", "json"], b"");
            let text = String::from_utf8(listed.stdout).unwrap();
            // Nothing says that it is complete when it is not; a store that is being made anew is none.
            assert!(!listed.status.success() || text == before || more == ["--reformat"], "{when}: {text}");
        };
        assert!(killed_when(&node, &args.words(), || out.exists()), "the export is there");
        unknown_or_all("before");
        for gone in [2, 6, all - 8] {
            assert!(
                killed_when(&node, &args.words(), || objects(&tokens) <= all - gone),
                "{gone} are destroyed"
            );
            unknown_or_all("while it is emptied");
        }
        for back in [1, 4, 8] {
            let mut lowest = usize::MAX;
            let refilling = || {
                let now = objects(&tokens);
                lowest = lowest.min(now);
                lowest < all - 8 && now >= lowest + back
            };
            killed_when(&node, &args.words(), refilling);
            unknown_or_all("while it is refilled");
        }
        node.ok(&args.words());
        assert_eq!(before, node.ok(&["list", "-o", "json"]));
        node.fails(&["get", "secrets/a/gone"], 3);
        node.ok(&["doctor"]);
    }
}

#[test]
fn a_compaction_under_way_is_seen_and_needs_its_export() {
    let node = filled();
    let (args, tokens) = (Args::new(&node, "out.age", &[]), node.path("tokens"));
    let all = objects(&tokens);
    assert!(killed_when(&node, &args.words(), || objects(&tokens) <= all - 6));
    assert!(node.fails(&["list"], 1).contains("incomplete"));
    assert!(node.fails(&["get", "secrets/a/1"], 1).contains("compaction"));
    node.fails(&["put", "x", "--from-file", "k=/dev/null"], 1);
    assert!(node.fails(&["doctor"], 1).contains("compact"));
    assert!(
        node.fails(&Args::new(&node, "other.age", &[]).words(), 2).contains("--out FILE that it began with")
    );
    let pass = node.path("pass");
    let out = node.path("more.age");
    let export = ["export", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap()];
    assert!(node.fails(&export, 1).contains("compaction"));
    node.ok(&args.words());
    assert_eq!(node.ok(&["get", "secrets/a/1", "--key", "k"]), "value-1");
}
