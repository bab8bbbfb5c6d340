//! `hsm-agent token change-pin` on SoftHSM, cut short at every step that can be seen from outside.

use std::time::{Duration, Instant};

use crate::kill::killed_alone_when;
use crate::node::Node;

fn text(path: &std::path::Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_pin_can_be_changed_and_changed_again() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    let (old, new) = (node.pin(), text(&node.path("new")));
    std::fs::write(&new, "short-7\n").unwrap();
    let output = node.token(&["change-pin", "--new-pin-file", &new], b"");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("has 7 characters") && said.contains("pinSecret"), "{said}");
    assert!(!said.contains("short-7") && !said.contains(&old));
    assert!(node.fails(&["list"], 1).contains("not tried again"), "the old one is known to be wrong");
    // The same again finds it changed, and spends no try.
    assert!(node.ok(&["change-pin", "--new-pin-file", &new]).contains("changed already"));
    std::fs::copy(&new, node.path("pin")).unwrap();
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");

    // A new one is made where there is none, and takes the old one's place in the end.
    let made = text(&node.path("made"));
    let said = node.ok(&["change-pin", "--new-pin-file", &made, "--replace-pin-file"]);
    assert!(said.contains("holds the new PIN"), "{said}");
    assert_eq!(node.pin().len(), 15);
    assert_eq!(std::fs::read(&made).unwrap(), std::fs::read(node.path("pin")).unwrap());
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");
    assert!(node.ok(&["change-pin", "--new-pin-file", &made]).contains("changed already"));
}

#[test]
fn a_wrong_old_pin_changes_nothing_and_the_new_one_is_not_tried() {
    let node = Node::with_token();
    let right = node.pin();
    let new = text(&node.path("new"));
    std::fs::write(&new, "another-pin-22\n").unwrap();
    std::fs::write(node.path("pin"), "wrong-pin-1\n").unwrap();
    node.fails(&["change-pin", "--new-pin-file", &new], 1);
    std::fs::write(node.path("pin"), &right).unwrap();
    node.ok(&["list"]);
    node.ok(&["change-pin", "--new-pin-file", &new, "--replace-pin-file"]);
    node.ok(&["list"]);
}

#[test]
fn a_change_that_is_killed_anywhere_ends_with_the_new_pin() {
    let node = Node::with_token();
    node.put("a", "k", "v");
    for round in 0..12_u32 {
        let new = text(&node.path(&format!("new{round}")));
        std::fs::write(&new, format!("another-pin-{round:02}\n")).unwrap();
        let args = ["change-pin", "--new-pin-file", &new, "--replace-pin-file"];
        // From before the module is loaded to after the file is replaced.
        let until = Instant::now() + Duration::from_millis(40 * u64::from(round));
        killed_alone_when(&node, &args, || Instant::now() >= until);
        node.ok(&args);
        assert_eq!(node.pin(), format!("another-pin-{round:02}"));
        assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");
    }
}
