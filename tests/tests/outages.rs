//! Parts stop and come back: nothing is lost, nothing is guessed, and nobody has to restart anything.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use hsm_tests::{World, eventually};

fn in_sync(world: &World, name: &str) {
    eventually("syncStatus", &"InSync".to_owned(), || world.field("apps", name, ".status.syncStatus"))
        .unwrap();
}

fn secret_is(world: &World, name: &str, key: &str, value: Option<&str>) {
    eventually("the Secret", &value.map(str::to_owned), || world.secret("apps", name, key)).unwrap();
}

fn token_has(world: &World, path: &str, key: &str, value: Option<&str>) {
    eventually("the token", &value.map(str::to_owned), || world.nodes[0].get(path, key)).unwrap();
}

fn world_with(names: &[&str]) -> World {
    let world = World::start(1).unwrap();
    world.namespace("apps").unwrap();
    for name in names {
        let path = format!("secrets/apps/{name}");
        world.nodes[0].put(&path, &[("a", "a1"), ("b", "b1")]).unwrap();
        world.apply("apps", name, "").unwrap();
    }
    for name in names {
        in_sync(&world, name);
    }
    world
}

#[test]
fn both_sides_edited_while_the_controller_is_down_still_merge() {
    let mut world = world_with(&["merge", "clash", "drop", "after"]);
    // An edit that went from the Secret to the token leaves no new annotation: the base must be newer than that.
    world.edit_secret("apps", "after", "a", "a2").unwrap();
    token_has(&world, "secrets/apps/after", "a", Some("a2"));
    in_sync(&world, "after");

    world.kill_controller();
    world.nodes[0].put("secrets/apps/merge", &[("a", "a2")]).unwrap();
    world.edit_secret("apps", "merge", "b", "b2").unwrap();
    world.nodes[0].put("secrets/apps/clash", &[("a", "token's")]).unwrap();
    world.edit_secret("apps", "clash", "a", "secret's").unwrap();
    world.nodes[0].token(&["delete", "secrets/apps/drop", "--key", "a"], None).unwrap();
    world.edit_secret("apps", "drop", "c", "c1").unwrap();
    world.nodes[0].put("secrets/apps/after", &[("a", "a3")]).unwrap();
    world.edit_secret("apps", "after", "b", "b2").unwrap();
    world.start_controller().unwrap();

    token_has(&world, "secrets/apps/merge", "b", Some("b2"));
    secret_is(&world, "merge", "a", Some("a2"));
    in_sync(&world, "merge");
    secret_is(&world, "drop", "a", None);
    token_has(&world, "secrets/apps/drop", "c", Some("c1"));
    token_has(&world, "secrets/apps/drop", "a", None);
    secret_is(&world, "after", "a", Some("a3"));
    token_has(&world, "secrets/apps/after", "b", Some("b2"));

    eventually("a conflict", &"ConflictPending".to_owned(), || world.reason("apps", "clash", "Conflict"))
        .unwrap();
    secret_is(&world, "clash", "a", Some("secret's"));
    token_has(&world, "secrets/apps/clash", "a", Some("token's"));
    world.annotate("apps", "clash", "hsm.j5t.io/resolve=token").unwrap();
    secret_is(&world, "clash", "a", Some("token's"));
    in_sync(&world, "clash");
}

#[test]
fn an_agent_that_is_gone_changes_nothing_and_its_return_heals() {
    let mut world = world_with(&["s"]);
    let uid = || {
        world.plane.kubectl(&["-n", "apps", "get", "secret", "s", "-o", "jsonpath={.metadata.uid}"]).unwrap()
    };
    let before = uid();
    world.nodes[0].kill();
    eventually("the reason", &"AgentUnreachable".to_owned(), || world.reason("apps", "s", "Ready")).unwrap();
    world.edit_secret("apps", "s", "a", "while away").unwrap();
    world.apply("apps", "new", r#""hsmPath": "secrets/apps/s2""#).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let uid = || {
        world.plane.kubectl(&["-n", "apps", "get", "secret", "s", "-o", "jsonpath={.metadata.uid}"]).unwrap()
    };
    assert_eq!(uid(), before);
    assert_eq!(world.secret("apps", "s", "a").unwrap().as_deref(), Some("while away"));
    world.nodes[0].start().unwrap();
    token_has(&world, "secrets/apps/s", "a", Some("while away"));
    in_sync(&world, "s");
    eventually("not found", &"PathNotFound".to_owned(), || world.reason("apps", "new", "Ready")).unwrap();
}

#[test]
fn an_api_server_that_is_gone_stops_nobody_for_good() {
    let world = world_with(&["s"]);
    world.plane.stop("apiserver").unwrap();
    world.nodes[0].put("secrets/apps/s", &[("a", "a2")]).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    world.plane.start_again("apiserver").unwrap();
    secret_is(&world, "s", "a", Some("a2"));
    in_sync(&world, "s");
}

#[test]
fn a_wrong_pin_is_tried_once_and_a_right_one_needs_no_restart() {
    let mut world = world_with(&["s"]);
    world.nodes[0].kill();
    let pin = std::fs::read_to_string(world.nodes[0].pin_file()).unwrap();
    std::fs::write(world.nodes[0].pin_file(), "000000000000000").unwrap();
    world.nodes[0].launch().unwrap();
    eventually("the reason", &"PinIncorrect".to_owned(), || world.reason("apps", "s", "Ready")).unwrap();
    secret_is(&world, "s", "a", Some("a1"));
    std::thread::sleep(Duration::from_secs(3));
    let metrics = world.nodes[0].metrics().unwrap();
    let tries: Vec<&str> = metrics.lines().filter(|l| l.starts_with("hsm_token_logins_total{")).collect();
    let failed = tries
        .iter()
        .filter(|l| !l.contains("\"ok\""))
        .map(|l| l.rsplit(' ').next().unwrap())
        .collect::<Vec<_>>();
    assert_eq!(failed, ["1"], "{tries:?}");
    std::fs::write(world.nodes[0].pin_file(), pin).unwrap();
    in_sync(&world, "s");
    world.nodes[0].put("secrets/apps/s", &[("a", "a2")]).unwrap();
    secret_is(&world, "s", "a", Some("a2"));
}

#[test]
fn no_token_is_not_an_empty_token_and_its_return_needs_no_restart() {
    let mut world = world_with(&["s"]);
    let tokens = world.nodes[0].dir().join("tokens");
    let away = world.nodes[0].dir().join("away");
    world.nodes[0].kill();
    std::fs::rename(&tokens, &away).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    world.nodes[0].launch().unwrap();
    eventually("ready", &"False".to_owned(), || {
        let ready = world.field("apps", "s", ".status.conditions[?(@.type=='Ready')].status")?;
        Ok(if ready == "True" { ready } else { "False".to_owned() })
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    secret_is(&world, "s", "a", Some("a1"));
    std::fs::remove_dir(&tokens).unwrap();
    std::fs::rename(&away, &tokens).unwrap();
    in_sync(&world, "s");
    secret_is(&world, "s", "a", Some("a1"));
}

#[test]
fn both_programs_end_cleanly_when_they_are_asked_to() {
    let mut world = world_with(&["s"]);
    assert_eq!(world.stop_controller().unwrap(), Some(0));
    let pid = world.nodes[0].agent_pid().unwrap();
    assert_eq!(world.nodes[0].stop().unwrap(), Some(0));
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    assert_eq!(children, "");
}

#[test]
fn after_convergence_nothing_is_written() {
    let world = world_with(&["s", "t", "u"]);
    std::thread::sleep(Duration::from_secs(3));
    let versions = || {
        world.plane.kubectl(&[
            "-n",
            "apps",
            "get",
            "hsmsec,secret",
            "-o",
            "jsonpath={.items[*].metadata.resourceVersion}",
        ])
    };
    let before = versions().unwrap();
    // Touching a label reconciles; it must not write.
    for i in 0..20 {
        let label = format!("touched={i}");
        world.plane.kubectl(&["-n", "apps", "label", "--overwrite", "hsmsec", "t", &label]).unwrap();
    }
    std::thread::sleep(Duration::from_secs(2));
    let writes = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (before, after) = (writes(&before), writes(&versions().unwrap()));
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 1, "only the labelled HSMSecret itself has a new version: {before:?} {after:?}");
    let t = world.field("apps", "t", ".metadata.resourceVersion").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(world.field("apps", "t", ".metadata.resourceVersion").unwrap(), t);
}
