//! Token and Secret stay equal, both ways, on real parts: etcd, kube-apiserver, SoftHSM, our own programs.
//!
//! One world serves all tests here; each has a namespace of its own. What stops a part is in `outages.rs`.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::LazyLock;

use hsm_tests::{World, eventually};

/// Not dropped, being a static: the control plane ends with this process, and so do agent and controller (their parent's
/// death is watched by `hack/kube --owner`; ours are ended by [`close`]).
static WORLD: LazyLock<World> = LazyLock::new(|| World::start(1).unwrap());

fn in_sync(namespace: &str, name: &str) {
    eventually("syncStatus", &"InSync".to_owned(), || WORLD.field(namespace, name, ".status.syncStatus"))
        .unwrap();
}

fn secret_is(namespace: &str, name: &str, key: &str, value: Option<&str>) {
    let wanted = value.map(str::to_owned);
    eventually("the Secret", &wanted, || WORLD.secret(namespace, name, key)).unwrap();
}

fn token_has(path: &str, key: &str, value: Option<&str>) {
    let wanted = value.map(str::to_owned);
    eventually("the token", &wanted, || WORLD.nodes[0].get(path, key)).unwrap();
}

fn reason_is(namespace: &str, name: &str, condition: &str, reason: &str) {
    eventually(condition, &reason.to_owned(), || WORLD.reason(namespace, name, condition)).unwrap();
}

#[test]
fn a_secret_travels_both_ways_and_goes_with_its_owner() {
    WORLD.namespace("both").unwrap();
    let path = "secrets/both/db";
    WORLD.nodes[0].put(path, &[("username", "admin"), ("password", "one")]).unwrap();
    WORLD.apply("both", "db", r#""secretName": "db", "deletionPolicy": "Delete""#).unwrap();
    in_sync("both", "db");
    secret_is("both", "db", "password", Some("one"));
    let labelled = WORLD.plane.kubectl(&[
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

    WORLD.edit_secret("both", "db", "password", "two").unwrap();
    token_has(path, "password", Some("two"));
    token_has(path, "username", Some("admin"));
    WORLD.nodes[0].put(path, &[("password", "three")]).unwrap();
    secret_is("both", "db", "password", Some("three"));
    in_sync("both", "db");
    let checksums = |field| WORLD.field("both", "db", field).unwrap();
    assert_eq!(checksums(".status.hsmChecksum"), checksums(".status.secretChecksum"));
    assert!(checksums(".status.hsmChecksum").starts_with("hmac-sha256:"));

    // Deleted by hand it is made anew.
    WORLD.plane.kubectl(&["-n", "both", "delete", "secret", "db"]).unwrap();
    secret_is("both", "db", "password", Some("three"));

    // A key deleted on the token goes from the Secret.
    WORLD.nodes[0].token(&["delete", path, "--key", "username"], None).unwrap();
    secret_is("both", "db", "username", None);

    WORLD.plane.kubectl(&["-n", "both", "delete", "hsmsec", "db", "--timeout", "60s"]).unwrap();
    token_has(path, "password", None);
    secret_is("both", "db", "password", None);
}

#[test]
fn a_record_deleted_on_the_token_takes_the_secret_with_it_and_a_new_one_brings_it_back() {
    WORLD.namespace("gone").unwrap();
    let path = "secrets/gone/s";
    WORLD.nodes[0].put(path, &[("k", "old")]).unwrap();
    WORLD.apply("gone", "s", r#""secretName": "s""#).unwrap();
    in_sync("gone", "s");
    WORLD.nodes[0].token(&["delete", path], None).unwrap();
    secret_is("gone", "s", "k", None);
    reason_is("gone", "s", "Ready", "PathNotFound");
    WORLD.nodes[0].put(path, &[("k", "new")]).unwrap();
    secret_is("gone", "s", "k", Some("new"));
    in_sync("gone", "s");
}

#[test]
fn deleting_the_hsmsecret_keeps_the_record_by_default() {
    WORLD.namespace("kept").unwrap();
    WORLD.nodes[0].put("secrets/kept/s", &[("k", "v")]).unwrap();
    WORLD.apply("kept", "s", "").unwrap();
    in_sync("kept", "s");
    WORLD.plane.kubectl(&["-n", "kept", "delete", "hsmsec", "s", "--timeout", "60s"]).unwrap();
    secret_is("kept", "s", "k", None);
    assert_eq!(WORLD.nodes[0].get("secrets/kept/s", "k").unwrap().as_deref(), Some("v"));
}

#[test]
fn a_foreign_secret_is_left_alone_until_adoption_is_allowed() {
    WORLD.namespace("foreign").unwrap();
    WORLD.nodes[0].put("secrets/foreign/s", &[("k", "token's")]).unwrap();
    WORLD
        .plane
        .kubectl(&["-n", "foreign", "create", "secret", "generic", "s", "--from-literal=k=theirs"])
        .unwrap();
    WORLD.apply("foreign", "s", "").unwrap();
    reason_is("foreign", "s", "Ready", "AdoptionRefused");
    assert_eq!(WORLD.secret("foreign", "s", "k").unwrap().as_deref(), Some("theirs"));

    // Different contents and no base: a conflict, not a guess.
    WORLD.apply("foreign", "s", r#""adoptionPolicy": "Always""#).unwrap();
    reason_is("foreign", "s", "Conflict", "ConflictPending");
    assert_eq!(WORLD.secret("foreign", "s", "k").unwrap().as_deref(), Some("theirs"));
    WORLD.annotate("foreign", "s", "hsm.j5t.io/resolve=secret").unwrap();
    in_sync("foreign", "s");
    token_has("secrets/foreign/s", "k", Some("theirs"));
    eventually("the annotation", &String::new(), || {
        WORLD.field("foreign", "s", r".metadata.annotations.hsm\.j5t\.io/resolve")
    })
    .unwrap();
}

#[test]
fn a_path_of_another_namespace_is_forbidden() {
    WORLD.namespace("victim").unwrap();
    WORLD.namespace("thief").unwrap();
    WORLD.nodes[0].put("secrets/victim/s", &[("k", "v")]).unwrap();
    WORLD.apply("thief", "s", r#""hsmPath": "secrets/victim/s""#).unwrap();
    reason_is("thief", "s", "Ready", "PathForbidden");
    assert_eq!(WORLD.secret("thief", "s", "k").unwrap(), None);
    // Recovery without a restart, when the cause goes.
    WORLD.nodes[0].put("secrets/thief/s", &[("k", "own")]).unwrap();
    WORLD.apply("thief", "s", r#""hsmPath": "secrets/thief/s""#).unwrap();
    secret_is("thief", "s", "k", Some("own"));
}

#[test]
fn a_value_too_large_for_a_record_is_refused_and_nothing_is_lost() {
    WORLD.namespace("large").unwrap();
    WORLD.nodes[0].put("secrets/large/s", &[("k", "v")]).unwrap();
    WORLD.apply("large", "s", "").unwrap();
    in_sync("large", "s");
    WORLD.edit_secret("large", "s", "big", &"x".repeat(400_000)).unwrap();
    reason_is("large", "s", "Ready", "ValueTooLarge");
    assert_eq!(WORLD.nodes[0].get("secrets/large/s", "k").unwrap().as_deref(), Some("v"));
    assert_eq!(WORLD.secret("large", "s", "big").unwrap().map(|v| v.len()), Some(400_000));
    WORLD.edit_secret("large", "s", "big", &"x".repeat(60_000)).unwrap();
    in_sync("large", "s");
    assert_eq!(WORLD.nodes[0].get("secrets/large/s", "big").unwrap().map(|v| v.len()), Some(60_000));
}

#[test]
fn auto_sync_false_stops_both_directions_until_forced() {
    WORLD.namespace("manual").unwrap();
    let path = "secrets/manual/s";
    WORLD.nodes[0].put(path, &[("k", "one")]).unwrap();
    WORLD.apply("manual", "s", r#""autoSync": false"#).unwrap();
    secret_is("manual", "s", "k", Some("one"));
    in_sync("manual", "s");
    WORLD.nodes[0].put(path, &[("k", "two")]).unwrap();
    eventually("syncStatus", &"OutOfSync".to_owned(), || WORLD.field("manual", "s", ".status.syncStatus"))
        .unwrap();
    assert_eq!(WORLD.secret("manual", "s", "k").unwrap().as_deref(), Some("one"));
    assert_eq!(WORLD.field("manual", "s", ".spec.autoSync").unwrap(), "false");
    WORLD.annotate("manual", "s", "hsm.j5t.io/force-sync=now").unwrap();
    secret_is("manual", "s", "k", Some("two"));
}

#[test]
fn paused_means_nothing_at_all() {
    WORLD.namespace("paused").unwrap();
    WORLD.nodes[0].put("secrets/paused/s", &[("k", "one")]).unwrap();
    WORLD.apply("paused", "s", "").unwrap();
    in_sync("paused", "s");
    WORLD.annotate("paused", "s", "hsm.j5t.io/paused=true").unwrap();
    reason_is("paused", "s", "Ready", "Paused");
    WORLD.nodes[0].put("secrets/paused/s", &[("k", "two")]).unwrap();
    WORLD.annotate("paused", "s", "hsm.j5t.io/force-sync=now").unwrap();
    reason_is("paused", "s", "Ready", "Paused");
    assert_eq!(WORLD.secret("paused", "s", "k").unwrap().as_deref(), Some("one"));
    WORLD.annotate("paused", "s", "hsm.j5t.io/paused-").unwrap();
    secret_is("paused", "s", "k", Some("two"));
}

#[test]
fn sync_policies_put_back_what_goes_the_wrong_way() {
    WORLD.namespace("oneway").unwrap();
    for (name, policy) in [("from", "FromToken"), ("to", "ToToken")] {
        let path = format!("secrets/oneway/{name}");
        WORLD.nodes[0].put(&path, &[("k", "one")]).unwrap();
        WORLD.apply("oneway", name, &format!(r#""syncPolicy": "{policy}""#)).unwrap();
        in_sync("oneway", name);
    }
    WORLD.edit_secret("oneway", "from", "k", "edited").unwrap();
    secret_is("oneway", "from", "k", Some("one"));
    token_has("secrets/oneway/from", "k", Some("one"));
    WORLD.nodes[0].put("secrets/oneway/to", &[("k", "edited")]).unwrap();
    token_has("secrets/oneway/to", "k", Some("one"));
    secret_is("oneway", "to", "k", Some("one"));
}

#[test]
fn the_secret_moves_with_its_name_and_changes_its_type() {
    WORLD.namespace("moves").unwrap();
    WORLD.nodes[0].put("secrets/moves/s", &[("username", "u"), ("password", "p")]).unwrap();
    WORLD.apply("moves", "s", r#""secretName": "before""#).unwrap();
    secret_is("moves", "before", "password", Some("p"));
    WORLD.apply("moves", "s", r#""secretName": "after""#).unwrap();
    secret_is("moves", "after", "password", Some("p"));
    secret_is("moves", "before", "password", None);
    WORLD.apply("moves", "s", r#""secretName": "after", "secretType": "kubernetes.io/basic-auth""#).unwrap();
    let kind = || WORLD.plane.kubectl(&["-n", "moves", "get", "secret", "after", "-o", "jsonpath={.type}"]);
    eventually("the type", &"kubernetes.io/basic-auth".to_owned(), kind).unwrap();
    secret_is("moves", "after", "password", Some("p"));
}

#[test]
fn fields_that_are_not_acted_on_yet_say_so_and_sync_goes_on() {
    WORLD.namespace("later").unwrap();
    WORLD.nodes[0].put("secrets/later/s", &[("k", "v")]).unwrap();
    WORLD.apply("later", "s", r#""mirrors": 2"#).unwrap();
    in_sync("later", "s");
    reason_is("later", "s", "Degraded", "FieldNotYetActive");
}

#[test]
fn nothing_secret_is_logged_or_measured() {
    WORLD.namespace("canary").unwrap();
    let canary = "canary-3f9c2b7e";
    WORLD.nodes[0].put("secrets/canary/s", &[("k", canary)]).unwrap();
    WORLD.apply("canary", "s", "").unwrap();
    secret_is("canary", "s", "k", Some(canary));
    in_sync("canary", "s");
    let pin = std::fs::read_to_string(WORLD.nodes[0].pin_file()).unwrap();
    let events = WORLD.plane.kubectl(&["get", "events.events.k8s.io", "-A", "-o", "yaml"]).unwrap();
    let status = WORLD.plane.kubectl(&["-n", "canary", "get", "hsmsec", "s", "-o", "yaml"]).unwrap();
    let agent = WORLD.nodes[0].log();
    assert!(!agent.is_empty() && !WORLD.controller_log().is_empty());
    let places = [
        agent,
        WORLD.controller_log(),
        WORLD.nodes[0].metrics().unwrap(),
        WORLD.controller_metrics().unwrap(),
        events,
        status,
    ];
    for (i, text) in places.iter().enumerate() {
        assert!(!text.contains(canary), "place {i} holds the value");
        assert!(!text.contains(pin.trim()), "place {i} holds the PIN");
    }
}
