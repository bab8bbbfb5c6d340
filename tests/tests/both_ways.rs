//! Token and Secret stay equal, both ways, on real parts: etcd, kube-apiserver, SoftHSM, our own programs.
//!
//! One world serves all tests here; each has a namespace of its own, and they run side by side. So this file has a
//! `main` of its own (`harness = false`): a world in a `static` would never be dropped, and its programs would stay.
//! What stops a part is in `outages.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step fails the test; the harness is our own"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use hsm_tests::{World, eventually};

fn in_sync(world: &World, namespace: &str, name: &str) {
    eventually("syncStatus", &"InSync".to_owned(), || world.field(namespace, name, ".status.syncStatus"))
        .unwrap();
}

fn secret_is(world: &World, namespace: &str, name: &str, key: &str, value: Option<&str>) {
    let wanted = value.map(str::to_owned);
    eventually("the Secret", &wanted, || world.secret(namespace, name, key)).unwrap();
}

fn token_has(world: &World, path: &str, key: &str, value: Option<&str>) {
    let wanted = value.map(str::to_owned);
    eventually("the token", &wanted, || world.nodes[0].get(path, key)).unwrap();
}

fn reason_is(world: &World, namespace: &str, name: &str, condition: &str, reason: &str) {
    eventually(condition, &reason.to_owned(), || world.reason(namespace, name, condition)).unwrap();
}

fn a_secret_travels_both_ways_and_goes_with_its_owner(world: &World) {
    world.namespace("both").unwrap();
    let path = "secrets/both/db";
    world.nodes[0].put(path, &[("username", "admin"), ("password", "one")]).unwrap();
    world.apply("both", "db", r#""secretName": "db", "deletionPolicy": "Delete""#).unwrap();
    in_sync(world, "both", "db");
    secret_is(world, "both", "db", "password", Some("one"));
    let labelled = world.plane.kubectl(&[
        "-n",
        "both",
        "get",
        "secrets",
        "-l",
        "managed-by=hsm-secrets-operator",
        "-o",
        "name",
    ]);
    assert_eq!(labelled.unwrap().trim(), "secret/db");

    world.edit_secret("both", "db", "password", "two").unwrap();
    token_has(world, path, "password", Some("two"));
    token_has(world, path, "username", Some("admin"));
    world.nodes[0].put(path, &[("password", "three")]).unwrap();
    secret_is(world, "both", "db", "password", Some("three"));
    in_sync(world, "both", "db");
    let checksums = |field| world.field("both", "db", field).unwrap();
    assert_eq!(checksums(".status.hsmChecksum"), checksums(".status.secretChecksum"));
    assert!(checksums(".status.hsmChecksum").starts_with("hmac-sha256:"));

    // Deleted by hand it is made anew.
    world.plane.kubectl(&["-n", "both", "delete", "secret", "db"]).unwrap();
    secret_is(world, "both", "db", "password", Some("three"));

    // A key deleted on the token goes from the Secret.
    world.nodes[0].token(&["delete", path, "--key", "username"], None).unwrap();
    secret_is(world, "both", "db", "username", None);

    world.plane.kubectl(&["-n", "both", "delete", "hsmsec", "db", "--timeout", "60s"]).unwrap();
    token_has(world, path, "password", None);
    secret_is(world, "both", "db", "password", None);
}

fn a_record_deleted_on_the_token_takes_the_secret_with_it_and_a_new_one_brings_it_back(world: &World) {
    world.namespace("gone").unwrap();
    let path = "secrets/gone/s";
    world.nodes[0].put(path, &[("k", "old")]).unwrap();
    world.apply("gone", "s", r#""secretName": "s""#).unwrap();
    in_sync(world, "gone", "s");
    world.nodes[0].token(&["delete", path], None).unwrap();
    secret_is(world, "gone", "s", "k", None);
    reason_is(world, "gone", "s", "Ready", "PathNotFound");
    world.nodes[0].put(path, &[("k", "new")]).unwrap();
    secret_is(world, "gone", "s", "k", Some("new"));
    in_sync(world, "gone", "s");
}

/// The Go operator's layout: one object for each key, and metadata. It is served as it is, and becomes ours with the
/// Secret's first edit.
fn a_record_of_the_go_operator_is_served_and_becomes_ours(world: &World) {
    world.namespace("wild").unwrap();
    let node = &world.nodes[0];
    let path = "secrets/wild/s";
    node.plant(&format!("{path}/_metadata"), br#"{"description":"as it was","labels":{"sync.version":"7"}}"#)
        .unwrap();
    node.plant(&format!("{path}/username"), b"admin").unwrap();
    node.plant(&format!("{path}/password"), b"one").unwrap();
    world.apply("wild", "s", "").unwrap();
    secret_is(world, "wild", "s", "password", Some("one"));
    in_sync(world, "wild", "s");
    assert!(node.token(&["doctor"], None).unwrap().contains("1 foreign"));

    world.edit_secret("wild", "s", "password", "two").unwrap();
    token_has(world, path, "password", Some("two"));
    token_has(world, path, "username", Some("admin"));
    in_sync(world, "wild", "s");
    let forms =
        || node.token(&["doctor"], None).map(|text| text.contains(" 0 foreign (hsm-agent token migrate)"));
    eventually("nothing foreign is left", &true, forms).unwrap();
    assert!(node.token(&["get", path], None).unwrap().contains("as it was"), "its description stays");
}

fn earlier_values_are_kept_as_the_hsmsecret_asks(world: &World) {
    world.namespace("history").unwrap();
    let (path, node) = ("secrets/history/s", &world.nodes[0]);
    node.put(path, &[("k", "v0")]).unwrap();
    world.apply("history", "s", r#""historyLimit": 2"#).unwrap();
    in_sync(world, "history", "s");
    for value in ["v1", "v2", "v3"] {
        world.edit_secret("history", "s", "k", value).unwrap();
        token_has(world, path, "k", Some(value));
    }
    let text = node.token(&["history", path, "-o", "json"], None).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let items = document["items"].as_array().unwrap();
    assert_eq!(items.len(), 3, "the current value and two earlier ones: {text}");
    let oldest = items[2]["version"].as_str().unwrap();
    let earlier = node.token(&["get", path, "--version", oldest, "--key", "k"], None).unwrap();
    assert_eq!(earlier, "v1");

    // A restored value is an edit like any other: it reaches the Secret.
    node.token(&["restore", path, "--version", oldest, "--yes"], None).unwrap();
    secret_is(world, "history", "s", "k", Some("v1"));
    in_sync(world, "history", "s");
}

fn deleting_the_hsmsecret_keeps_the_record_by_default(world: &World) {
    world.namespace("kept").unwrap();
    world.nodes[0].put("secrets/kept/s", &[("k", "v")]).unwrap();
    world.apply("kept", "s", "").unwrap();
    in_sync(world, "kept", "s");
    world.plane.kubectl(&["-n", "kept", "delete", "hsmsec", "s", "--timeout", "60s"]).unwrap();
    secret_is(world, "kept", "s", "k", None);
    assert_eq!(world.nodes[0].get("secrets/kept/s", "k").unwrap().as_deref(), Some("v"));
}

fn a_foreign_secret_is_left_alone_until_adoption_is_allowed(world: &World) {
    world.namespace("foreign").unwrap();
    world.nodes[0].put("secrets/foreign/s", &[("k", "token's")]).unwrap();
    world
        .plane
        .kubectl(&["-n", "foreign", "create", "secret", "generic", "s", "--from-literal=k=theirs"])
        .unwrap();
    world.apply("foreign", "s", "").unwrap();
    reason_is(world, "foreign", "s", "Ready", "AdoptionRefused");
    assert_eq!(world.secret("foreign", "s", "k").unwrap().as_deref(), Some("theirs"));

    // Different contents and no base: a conflict, not a guess.
    world.apply("foreign", "s", r#""adoptionPolicy": "Always""#).unwrap();
    reason_is(world, "foreign", "s", "Conflict", "ConflictPending");
    assert_eq!(world.secret("foreign", "s", "k").unwrap().as_deref(), Some("theirs"));
    world.annotate("foreign", "s", "hsm.j5t.io/resolve=secret").unwrap();
    in_sync(world, "foreign", "s");
    token_has(world, "secrets/foreign/s", "k", Some("theirs"));
    eventually("the annotation", &String::new(), || {
        world.field("foreign", "s", r".metadata.annotations.hsm\.j5t\.io/resolve")
    })
    .unwrap();
}

fn a_path_of_another_namespace_is_forbidden(world: &World) {
    world.namespace("victim").unwrap();
    world.namespace("thief").unwrap();
    world.nodes[0].put("secrets/victim/s", &[("k", "v")]).unwrap();
    world.apply("thief", "s", r#""hsmPath": "secrets/victim/s""#).unwrap();
    reason_is(world, "thief", "s", "Ready", "PathForbidden");
    assert_eq!(world.secret("thief", "s", "k").unwrap(), None);
    // Recovery without a restart, when the cause goes.
    world.nodes[0].put("secrets/thief/s", &[("k", "own")]).unwrap();
    world.apply("thief", "s", r#""hsmPath": "secrets/thief/s""#).unwrap();
    secret_is(world, "thief", "s", "k", Some("own"));
}

fn a_value_too_large_for_a_record_is_refused_and_nothing_is_lost(world: &World) {
    world.namespace("large").unwrap();
    world.nodes[0].put("secrets/large/s", &[("k", "v")]).unwrap();
    world.apply("large", "s", "").unwrap();
    in_sync(world, "large", "s");
    world.edit_secret("large", "s", "big", &"x".repeat(400_000)).unwrap();
    reason_is(world, "large", "s", "Ready", "ValueTooLarge");
    assert_eq!(world.nodes[0].get("secrets/large/s", "k").unwrap().as_deref(), Some("v"));
    assert_eq!(world.secret("large", "s", "big").unwrap().map(|v| v.len()), Some(400_000));
    world.edit_secret("large", "s", "big", &"x".repeat(60_000)).unwrap();
    in_sync(world, "large", "s");
    assert_eq!(world.nodes[0].get("secrets/large/s", "big").unwrap().map(|v| v.len()), Some(60_000));
}

fn auto_sync_false_stops_both_directions_until_forced(world: &World) {
    world.namespace("manual").unwrap();
    let path = "secrets/manual/s";
    world.nodes[0].put(path, &[("k", "one")]).unwrap();
    world.apply("manual", "s", r#""autoSync": false"#).unwrap();
    secret_is(world, "manual", "s", "k", Some("one"));
    in_sync(world, "manual", "s");
    world.nodes[0].put(path, &[("k", "two")]).unwrap();
    eventually("syncStatus", &"OutOfSync".to_owned(), || world.field("manual", "s", ".status.syncStatus"))
        .unwrap();
    assert_eq!(world.secret("manual", "s", "k").unwrap().as_deref(), Some("one"));
    assert_eq!(world.field("manual", "s", ".spec.autoSync").unwrap(), "false");
    world.annotate("manual", "s", "hsm.j5t.io/force-sync=now").unwrap();
    secret_is(world, "manual", "s", "k", Some("two"));
}

fn paused_means_nothing_at_all(world: &World) {
    world.namespace("paused").unwrap();
    world.nodes[0].put("secrets/paused/s", &[("k", "one")]).unwrap();
    world.apply("paused", "s", "").unwrap();
    in_sync(world, "paused", "s");
    world.annotate("paused", "s", "hsm.j5t.io/paused=true").unwrap();
    reason_is(world, "paused", "s", "Ready", "Paused");
    world.nodes[0].put("secrets/paused/s", &[("k", "two")]).unwrap();
    world.annotate("paused", "s", "hsm.j5t.io/force-sync=now").unwrap();
    reason_is(world, "paused", "s", "Ready", "Paused");
    assert_eq!(world.secret("paused", "s", "k").unwrap().as_deref(), Some("one"));
    world.annotate("paused", "s", "hsm.j5t.io/paused-").unwrap();
    secret_is(world, "paused", "s", "k", Some("two"));
}

fn sync_policies_put_back_what_goes_the_wrong_way(world: &World) {
    world.namespace("oneway").unwrap();
    for (name, policy) in [("from", "FromToken"), ("to", "ToToken")] {
        let path = format!("secrets/oneway/{name}");
        world.nodes[0].put(&path, &[("k", "one")]).unwrap();
        world.apply("oneway", name, &format!(r#""syncPolicy": "{policy}""#)).unwrap();
        in_sync(world, "oneway", name);
    }
    world.edit_secret("oneway", "from", "k", "edited").unwrap();
    secret_is(world, "oneway", "from", "k", Some("one"));
    token_has(world, "secrets/oneway/from", "k", Some("one"));
    world.nodes[0].put("secrets/oneway/to", &[("k", "edited")]).unwrap();
    token_has(world, "secrets/oneway/to", "k", Some("one"));
    secret_is(world, "oneway", "to", "k", Some("one"));
}

fn the_secret_moves_with_its_name_and_changes_its_type(world: &World) {
    world.namespace("moves").unwrap();
    world.nodes[0].put("secrets/moves/s", &[("username", "u"), ("password", "p")]).unwrap();
    world.apply("moves", "s", r#""secretName": "before""#).unwrap();
    secret_is(world, "moves", "before", "password", Some("p"));
    world.apply("moves", "s", r#""secretName": "after""#).unwrap();
    secret_is(world, "moves", "after", "password", Some("p"));
    secret_is(world, "moves", "before", "password", None);
    world.apply("moves", "s", r#""secretName": "after", "secretType": "kubernetes.io/basic-auth""#).unwrap();
    let kind = || world.plane.kubectl(&["-n", "moves", "get", "secret", "after", "-o", "jsonpath={.type}"]);
    eventually("the type", &"kubernetes.io/basic-auth".to_owned(), kind).unwrap();
    secret_is(world, "moves", "after", "password", Some("p"));
}

fn fields_that_are_not_acted_on_yet_say_so_and_sync_goes_on(world: &World) {
    world.namespace("later").unwrap();
    world.nodes[0].put("secrets/later/s", &[("k", "v")]).unwrap();
    world.apply("later", "s", r#""mirrors": 2"#).unwrap();
    in_sync(world, "later", "s");
    reason_is(world, "later", "s", "Degraded", "FieldNotYetActive");
}

fn nothing_secret_is_logged_or_measured(world: &World) {
    world.namespace("canary").unwrap();
    let canary = "canary-3f9c2b7e";
    world.nodes[0].put("secrets/canary/s", &[("k", canary)]).unwrap();
    world.apply("canary", "s", "").unwrap();
    secret_is(world, "canary", "s", "k", Some(canary));
    in_sync(world, "canary", "s");
    let pin = std::fs::read_to_string(world.nodes[0].pin_file()).unwrap();
    let events = world.plane.kubectl(&["get", "events.events.k8s.io", "-A", "-o", "yaml"]).unwrap();
    let status = world.plane.kubectl(&["-n", "canary", "get", "hsmsec", "s", "-o", "yaml"]).unwrap();
    let agent = world.nodes[0].log();
    assert!(!agent.is_empty() && !world.controller_log().is_empty());
    let places = [
        agent,
        world.controller_log(),
        world.nodes[0].metrics().unwrap(),
        world.controller_metrics().unwrap(),
        events,
        status,
    ];
    for (i, text) in places.iter().enumerate() {
        assert!(!text.contains(canary), "place {i} holds the value");
        assert!(!text.contains(pin.trim()), "place {i} holds the PIN");
    }
}

fn two_hsmsecrets_that_share_a_record_follow_each_other(world: &World) {
    world.namespace("shared").unwrap();
    let path = "secrets/shared/db";
    world.nodes[0].put(path, &[("k", "one")]).unwrap();
    for name in ["a", "b"] {
        world.apply("shared", name, &format!(r#""hsmPath": "{path}""#)).unwrap();
        in_sync(world, "shared", name);
    }
    for (i, (name, other)) in [("a", "b"), ("b", "a"), ("a", "b")].into_iter().enumerate() {
        let value = format!("edit {i}");
        world.edit_secret("shared", name, "k", &value).unwrap();
        token_has(world, path, "k", Some(&value));
        secret_is(world, "shared", other, "k", Some(&value));
        secret_is(world, "shared", name, "k", Some(&value));
        in_sync(world, "shared", other);
    }
    let version = || world.field("shared", "a", ".status.version").unwrap();
    let before = version();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(version(), before, "nobody writes it back and forth");
}

fn a_foreign_secret_is_brought_to_a_token_that_has_no_record(world: &World) {
    world.namespace("brought").unwrap();
    world
        .plane
        .kubectl(&["-n", "brought", "create", "secret", "generic", "s", "--from-literal=k=theirs"])
        .unwrap();
    world.apply("brought", "s", r#""adoptionPolicy": "Always""#).unwrap();
    token_has(world, "secrets/brought/s", "k", Some("theirs"));
    in_sync(world, "brought", "s");
}

fn a_type_that_does_not_fit_leaves_the_secret_and_one_that_fits_keeps_its_labels(world: &World) {
    world.namespace("types").unwrap();
    world.nodes[0].put("secrets/types/s", &[("username", "u"), ("password", "p")]).unwrap();
    world.apply("types", "s", "").unwrap();
    in_sync(world, "types", "s");
    world.plane.kubectl(&["-n", "types", "label", "secret", "s", "team=blue"]).unwrap();
    // The API server wants tls.crt and tls.key in it.
    world.apply("types", "s", r#""secretType": "kubernetes.io/tls""#).unwrap();
    reason_is(world, "types", "s", "Ready", "InvalidSpec");
    assert_eq!(world.secret("types", "s", "password").unwrap().as_deref(), Some("p"));
    world.apply("types", "s", r#""secretType": "kubernetes.io/basic-auth""#).unwrap();
    in_sync(world, "types", "s");
    let get = |path: &str| world.plane.kubectl(&["-n", "types", "get", "secret", "s", "-o", path]).unwrap();
    assert_eq!(get("jsonpath={.type} {.metadata.labels.team}"), "kubernetes.io/basic-auth blue");
}

fn an_edit_of_the_secret_under_its_earlier_name_is_not_lost(world: &World) {
    world.namespace("renamed").unwrap();
    world.nodes[0].put("secrets/renamed/s", &[("k", "one")]).unwrap();
    world.apply("renamed", "s", r#""secretName": "before""#).unwrap();
    in_sync(world, "renamed", "s");
    world.annotate("renamed", "s", "hsm.j5t.io/paused=true").unwrap();
    reason_is(world, "renamed", "s", "Ready", "Paused");
    world.edit_secret("renamed", "before", "k", "two").unwrap();
    world.apply("renamed", "s", r#""secretName": "after", "syncInterval": 10"#).unwrap();
    world.annotate("renamed", "s", "hsm.j5t.io/paused-").unwrap();
    secret_is(world, "renamed", "after", "k", Some("one"));
    reason_is(world, "renamed", "s", "Ready", "ConflictPending");
    assert_eq!(world.secret("renamed", "before", "k").unwrap().as_deref(), Some("two"));
    world.edit_secret("renamed", "after", "k", "two").unwrap();
    token_has(world, "secrets/renamed/s", "k", Some("two"));
    secret_is(world, "renamed", "before", "k", None);
    in_sync(world, "renamed", "s");
}

fn an_hsmsecret_whose_path_became_forbidden_can_be_deleted(world: &World) {
    world.namespace("stuck").unwrap();
    world.nodes[0].put("secrets/stuck/s", &[("k", "v")]).unwrap();
    world.nodes[0].put("secrets/elsewhere/s", &[("k", "v")]).unwrap();
    world.apply("stuck", "s", r#""deletionPolicy": "Delete""#).unwrap();
    in_sync(world, "stuck", "s");
    world.apply("stuck", "s", r#""deletionPolicy": "Delete", "hsmPath": "secrets/elsewhere/s""#).unwrap();
    reason_is(world, "stuck", "s", "Ready", "PathForbidden");
    world.plane.kubectl(&["-n", "stuck", "delete", "hsmsec", "s", "--timeout", "30s"]).unwrap();
    token_has(world, "secrets/elsewhere/s", "k", Some("v"));
    token_has(world, "secrets/stuck/s", "k", Some("v"));
}

type Case = (&'static str, fn(&World));

const CASES: &[Case] = &[
    (
        "a_secret_travels_both_ways_and_goes_with_its_owner",
        a_secret_travels_both_ways_and_goes_with_its_owner,
    ),
    (
        "a_record_deleted_on_the_token_takes_the_secret_with_it_and_a_new_one_brings_it_back",
        a_record_deleted_on_the_token_takes_the_secret_with_it_and_a_new_one_brings_it_back,
    ),
    (
        "deleting_the_hsmsecret_keeps_the_record_by_default",
        deleting_the_hsmsecret_keeps_the_record_by_default,
    ),
    (
        "a_foreign_secret_is_left_alone_until_adoption_is_allowed",
        a_foreign_secret_is_left_alone_until_adoption_is_allowed,
    ),
    ("a_path_of_another_namespace_is_forbidden", a_path_of_another_namespace_is_forbidden),
    (
        "a_value_too_large_for_a_record_is_refused_and_nothing_is_lost",
        a_value_too_large_for_a_record_is_refused_and_nothing_is_lost,
    ),
    (
        "auto_sync_false_stops_both_directions_until_forced",
        auto_sync_false_stops_both_directions_until_forced,
    ),
    ("paused_means_nothing_at_all", paused_means_nothing_at_all),
    ("sync_policies_put_back_what_goes_the_wrong_way", sync_policies_put_back_what_goes_the_wrong_way),
    (
        "the_secret_moves_with_its_name_and_changes_its_type",
        the_secret_moves_with_its_name_and_changes_its_type,
    ),
    (
        "fields_that_are_not_acted_on_yet_say_so_and_sync_goes_on",
        fields_that_are_not_acted_on_yet_say_so_and_sync_goes_on,
    ),
    (
        "two_hsmsecrets_that_share_a_record_follow_each_other",
        two_hsmsecrets_that_share_a_record_follow_each_other,
    ),
    (
        "a_foreign_secret_is_brought_to_a_token_that_has_no_record",
        a_foreign_secret_is_brought_to_a_token_that_has_no_record,
    ),
    (
        "a_type_that_does_not_fit_leaves_the_secret_and_one_that_fits_keeps_its_labels",
        a_type_that_does_not_fit_leaves_the_secret_and_one_that_fits_keeps_its_labels,
    ),
    (
        "an_edit_of_the_secret_under_its_earlier_name_is_not_lost",
        an_edit_of_the_secret_under_its_earlier_name_is_not_lost,
    ),
    (
        "an_hsmsecret_whose_path_became_forbidden_can_be_deleted",
        an_hsmsecret_whose_path_became_forbidden_can_be_deleted,
    ),
    (
        "a_record_of_the_go_operator_is_served_and_becomes_ours",
        a_record_of_the_go_operator_is_served_and_becomes_ours,
    ),
    ("earlier_values_are_kept_as_the_hsmsecret_asks", earlier_values_are_kept_as_the_hsmsecret_asks),
    ("nothing_secret_is_logged_or_measured", nothing_secret_is_logged_or_measured),
];

fn main() {
    // The flags of the usual harness are not ours; a word is a filter, as it is there.
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<&Case> = CASES
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f)))
        .collect();
    if chosen.is_empty() || std::env::args().any(|a| a == "--list" || a == "--ignored") {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out", CASES.len());
        return;
    }
    println!("running {} tests", chosen.len());
    let world = World::start(1).unwrap();
    let failed = std::thread::scope(|scope| {
        let world = &world;
        let running: Vec<_> = chosen
            .iter()
            .map(|(name, case)| {
                let result = scope.spawn(move || catch_unwind(AssertUnwindSafe(|| case(world))).is_ok());
                (name, result)
            })
            .collect();
        let results = running.into_iter().map(|(name, thread)| (name, thread.join().unwrap_or(false)));
        results
            .filter(|(name, good)| {
                println!("test {name} ... {}", if *good { "ok" } else { "FAILED" });
                !good
            })
            .count()
    });
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, chosen.len() - failed);
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n"
    );
    drop(world);
    std::process::exit(i32::from(failed != 0));
}
