//! The command line killed in the middle of bulk work: the same command goes on.

use std::time::{Duration, Instant};

use crate::kill::{killed_when, objects};
use crate::node::Node;

/// How long anything may take here before the test says so.
const PATIENCE: Duration = Duration::from_mins(1);

const RECORDS: usize = 12;

fn filled() -> Node {
    let node = Node::with_token();
    std::fs::write(node.path("pass"), "correct horse battery\n").unwrap();
    for number in 0..RECORDS {
        node.put(&format!("secrets/a/{number}"), "k", &format!("value-{number}"));
    }
    node
}

#[test]
fn an_export_that_is_killed_leaves_the_old_file_and_can_be_made_again() {
    let node = filled();
    let (out, pass) = (node.path("out.age"), node.path("pass"));
    let part = node.path("out.age.part");
    let args =
        ["export", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap(), "--force"];
    let begun = || part.exists();
    assert!(killed_when(&node, &args, begun), "it was killed while it was writing");
    assert!(!out.exists(), "nothing that is not complete has the name");
    std::fs::write(&out, "the old export").unwrap();
    let written = || part.metadata().is_ok_and(|m| m.len() > 0);
    assert!(killed_when(&node, &args, written), "it was killed while it was checking");
    assert_eq!(std::fs::read(&out).unwrap(), b"the old export");
    node.ok(&args);
    assert!(!part.exists());
    let dry =
        node.ok(&["import", "--passphrase-file", pass.to_str().unwrap(), out.to_str().unwrap(), "--dry-run"]);
    assert!(dry.contains(&format!("{RECORDS} unchanged")), "{dry}");
}

#[test]
fn an_import_that_is_killed_anywhere_goes_on() {
    let one = filled();
    let (out, pass) = (one.path("out.age"), one.path("pass"));
    let (out, pass) = (out.to_str().unwrap(), pass.to_str().unwrap());
    one.ok(&["export", "--passphrase-file", pass, "--out", out]);
    let two = Node::with_token();
    let empty = objects(&two.path("tokens"));
    let args = ["import", "--passphrase-file", pass, out];
    for more in [1, 4, 8] {
        killed_when(&two, &args, || objects(&two.path("tokens")) >= empty + more);
        // Whatever is there is whole, and nothing is called absent because of the remains.
        let listed = two.ok(&["list", "-o", "name"]);
        for path in listed.lines() {
            let number = path.rsplit_once('/').unwrap().1;
            assert_eq!(two.ok(&["get", path, "--key", "k"]), format!("value-{number}"));
        }
    }
    let said = two.ok(&args);
    assert!(said.contains("0 conflict(s), 0 failed"), "{said}");
    assert_eq!(two.ok(&["list", "-o", "json"]), one.ok(&["list", "-o", "json"]));
    // (SoftHSM keeps the file of an object that it was killed over; that is no object of ours.)
    let ours = |node: &Node| {
        let doctor: serde_json::Value = serde_json::from_str(&node.ok(&["doctor", "-o", "json"])).unwrap();
        let text = doctor["objects"].as_str().unwrap().to_owned();
        text.split(": ").nth(1).unwrap().split(',').next().unwrap().to_owned()
    };
    assert_eq!(ours(&two), ours(&one), "no remains");
}

#[test]
fn two_exports_to_one_file_do_not_mix() {
    let node = filled();
    let (out, pass) = (node.path("out.age"), node.path("pass"));
    let args =
        ["export", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap(), "--force"];
    let part = node.path("out.age.part");
    let mut first = node.start(&args);
    let until = Instant::now() + PATIENCE;
    while !part.exists() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(node.fails(&args, 1).contains("another export is writing"));
    assert!(first.wait().unwrap().success());
    node.ok(&["import", "--passphrase-file", pass.to_str().unwrap(), out.to_str().unwrap(), "--dry-run"]);
}
