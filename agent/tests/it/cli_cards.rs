//! `hsm-agent token` on cards that behave like a Pico HSM v6.6 through OpenSC (tests/faulty-module).

use faulty_pkcs11::{CardOptions, Machine};

use crate::kill::killed_when;
use crate::node::Node;

const ONE: &str = "Pol Henarejos Pico HSM [CCID Interface] (E6605481DB8A0001) 00 00";
const TWO: &str = "Pol Henarejos Pico HSM [CCID Interface] (E6605481DB8A0002) 01 00";
const PIN: &str = "pin-of-a-card-1";

/// A node with Pico HSMs in these readers, initialised with the PIN that is in the PIN file.
fn with_cards(readers: &[&str]) -> (Node, Machine) {
    let node = Node::new();
    let machine = Machine::new(node.path("cards")).unwrap();
    for reader in readers {
        machine.add_card(reader, &CardOptions::with_pin(PIN)).unwrap();
    }
    std::fs::write(node.path("pin"), PIN).unwrap();
    (node.with_module(faulty_pkcs11::module_path().unwrap(), machine.env()), machine)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn two_cards_are_told_apart_by_reader_and_by_identity() {
    let (node, _machine) = with_cards(&[ONE, TWO]);
    let unnamed = node.fails(&["list"], 1);
    assert!(unnamed.contains("more than one") && unnamed.contains(TWO), "none is named: {unnamed}");
    for reader in [ONE, TWO] {
        node.ok(&["--reader", reader, "init", "--yes"]);
    }
    let id = |reader: &str| node.ok(&["--reader", reader, "info", "-o", "name"]).trim().to_owned();
    let (one, two) = (id(ONE), id(TWO));
    assert_ne!(one, two);
    node.ok_with(&["--token-id", &two, "put", "a", "--from-file", "k=-"], b"on two");
    assert_eq!(node.ok(&["--reader", TWO, "get", "a", "--key", "k"]), "on two");
    node.fails(&["--token-id", &one, "get", "a"], 3);
    let info = json(&node.ok(&["--token-id", &one, "info", "-o", "json"]));
    assert_eq!((&info["software"], &info["blank"]), (&"false".into(), &"no".into()));

    // From one card to the other.
    std::fs::write(node.path("pass"), "correct horse battery\n").unwrap();
    let (pass, out) = (node.path("pass"), node.path("out.age"));
    let (pass, out) = (pass.to_str().unwrap(), out.to_str().unwrap());
    node.ok(&["--token-id", &two, "export", "--passphrase-file", pass, "--out", out]);
    node.ok(&["--token-id", &one, "import", "--passphrase-file", pass, out]);
    let listed = |id: &str| node.ok(&["--token-id", id, "list", "-o", "json"]);
    assert_eq!(listed(&one), listed(&two));
}

#[test]
fn a_card_is_compacted_and_made_anew_and_goes_on_after_a_kill() {
    let (node, _machine) = with_cards(&[ONE]);
    node.ok(&["init", "--yes"]);
    for number in 0..4 {
        node.put(&format!("secrets/a/{number}"), "k", &format!("value-{number}"));
    }
    node.put("secrets/a/0", "k", "newer");
    node.ok(&["delete", "secrets/a/1"]);
    std::fs::write(node.path("pass"), "correct horse battery\n").unwrap();
    let (pass, out) = (node.path("pass"), node.path("out.age"));
    let args =
        ["compact", "--passphrase-file", pass.to_str().unwrap(), "--out", out.to_str().unwrap(), "--yes"];
    let before = node.ok(&["list", "-o", "json"]);
    assert!(killed_when(&node, &args, || out.exists()), "while it has only exported");
    node.ok(&args);
    assert_eq!(node.ok(&["list", "-o", "json"]), before);
    std::fs::remove_file(&out).unwrap();
    node.ok(&[&args[..], &["--reformat"]].concat());
    assert_eq!(node.ok(&["list", "-o", "json"]), before);
    assert_eq!(node.ok(&["get", "secrets/a/0", "--key", "k"]), "newer");
    node.fails(&["get", "secrets/a/1"], 3);
    let doctor = node.token(&["doctor", "-o", "json"], b"");
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stderr));
    assert!(
        json(&String::from_utf8(doctor.stdout).unwrap())["objects"].as_str().unwrap().contains("116 at rest")
    );
}

#[test]
fn a_pin_change_spends_no_more_than_one_try() {
    let (node, machine) = with_cards(&[ONE]);
    node.ok(&["init", "--yes"]);
    let new = node.path("new").to_str().unwrap().to_owned();
    std::fs::write(&new, "another-pin-22\n").unwrap();
    node.ok(&["change-pin", "--new-pin-file", &new]);
    // The old file is known to be wrong: neither this nor that spends a try.
    node.fails(&["list"], 1);
    assert!(node.ok(&["change-pin", "--new-pin-file", &new, "--replace-pin-file"]).contains("already"));
    node.ok(&["list"]);
    assert_eq!(machine.pin_tries(ONE).unwrap(), 3);
    // A wrong old PIN spends one, and the new one is not tried with it.
    let other = node.path("other").to_str().unwrap().to_owned();
    std::fs::write(&other, "a-third-pin-333\n").unwrap();
    std::fs::write(node.path("pin"), "not-the-pin-444\n").unwrap();
    for _ in 0..2 {
        node.fails(&["change-pin", "--new-pin-file", &other], 1);
        assert_eq!(machine.pin_tries(ONE).unwrap(), 2);
    }
}

#[test]
fn a_pin_change_that_is_cut_off_anywhere_ends_with_the_new_pin() {
    let (node, machine) = with_cards(&[ONE]);
    node.ok(&["init", "--yes"]);
    node.put("a", "k", "v");
    for round in 0..8_u32 {
        let new = node.path(&format!("new{round}")).to_str().unwrap().to_owned();
        std::fs::write(&new, format!("another-pin-{round:02}\n")).unwrap();
        let args = ["change-pin", "--new-pin-file", &new, "--replace-pin-file"];
        // Its worker goes with it, as in a power failure.
        let until = std::time::Instant::now() + std::time::Duration::from_millis(60 * u64::from(round));
        killed_when(&node, &args, || std::time::Instant::now() >= until);
        node.ok(&args);
        assert_eq!(node.pin(), format!("another-pin-{round:02}"));
        assert_eq!(machine.pin_tries(ONE).unwrap(), 3);
    }
    assert_eq!(node.ok(&["get", "a", "--key", "k"]), "v");
}
