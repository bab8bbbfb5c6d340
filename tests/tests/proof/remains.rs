//! SCENARIO 7: what a look at the chip shows. Neither living objects nor the remains of destroyed ones hold a value, a
//! key or a name in clear, before or after a deletion, a replacement and packing; on SoftHSM neither do its files.

use std::path::Path;

use hsm_store::Expect;
use hsm_token::Limits;

use crate::bed::*;

const NAME: &str = "secrets/canary-team/canary-name";
const KEY: &str = "canary-key";
/// What must be nowhere. Long enough that no random bytes look like it.
const CANARIES: [&str; 5] = ["canary-team", "canary-name", KEY, "canary-value", PIN];

/// Puts canaries on the token in every way that there is, and takes most of them away again.
fn live(store: &mut ProofStore, settle: &dyn Fn(&mut ProofStore), look: &dyn Fn(&str)) {
    let value = |text: &str, len: usize| text.bytes().cycle().take(len).collect::<Vec<u8>>();
    store.put(&put(NAME, &[(KEY, b"canary-value-1")])).unwrap();
    look("put");
    store.put(&put(NAME, &[(KEY, b"canary-value-2")])).unwrap();
    settle(store);
    look("replaced");
    store.put(&put(NAME, &[(KEY, &value("canary-value-3 ", 5_000))])).unwrap();
    settle(store);
    look("in chunks");
    let mut request = put(NAME, &[(KEY, b"canary-value-4")]);
    request.keep_history = 2;
    store.put(&request).unwrap();
    settle(store);
    look("with history");
    store.delete(&path(NAME), Expect::Any).unwrap();
    settle(store);
    look("deleted");
    for number in 0..12 {
        store.put(&put(&format!("{NAME}-{number}"), &[(KEY, &value("canary-value-5 ", 150))])).unwrap();
    }
    settle(store);
    while store.repack().unwrap() {
        settle(store);
    }
    look("packed");
    for number in 0..12 {
        store.delete(&path(&format!("{NAME}-{number}")), Expect::Any).unwrap();
        settle(store);
    }
    look("all deleted");
}

fn contains(bytes: &[u8], wanted: &str) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

#[test]
fn the_flash_of_a_card_shows_nothing() {
    let mut world = World::formatted();
    world.limits = Some(Limits { objects_at_rest: Some(14), objects_in_passing: Some(20), ..Limits::SC_HSM });
    let mut store = world.open();
    let look = |when: &str| {
        let objects = world.machine.objects(READER).unwrap();
        assert!(!objects.is_empty());
        let living = objects.iter().map(|object| {
            (object.label.clone() + &object.application, object.value.clone().unwrap_or_default())
        });
        let remains = world.machine.remains(READER).unwrap();
        assert!(!remains.is_empty() || when == "put", "{when}: deleted values stay readable on v6.6");
        for (text, value) in living.chain(remains) {
            for canary in CANARIES {
                assert!(!text.contains(canary) && !contains(&value, canary), "{when}: {canary}");
            }
        }
    };
    live(&mut store, &|store| world.settle(store), &look);
    // The fixture itself would show them: an object in clear is found by the same look.
    let handle = hsm_token::Token::create(
        store.token(),
        "plain",
        hsm_token::Visibility::Private,
        b"canary-value-in-clear",
    );
    handle.unwrap();
    let objects = world.machine.objects(READER).unwrap();
    assert!(objects.iter().any(|object| object.value.as_deref().is_some_and(|v| contains(v, CANARIES[3]))));
}

/// The files of a folder and of those in it.
fn files(folder: &Path, all: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
}

#[test]
fn the_files_of_softhsm_show_nothing() {
    let softhsm = softhsm();
    let mut store = softhsm_store(&softhsm);
    let tokens = softhsm.dir().join("tokens");
    let look = |when: &str| {
        let mut all = Vec::new();
        files(&tokens, &mut all);
        assert!(all.len() > 5, "{when}: {all:?}");
        for file in all {
            // One that is replaced meanwhile holds nothing any more.
            let bytes = std::fs::read(&file).unwrap_or_default();
            for canary in CANARIES {
                assert!(!contains(&bytes, canary), "{when}: {canary} in {}", file.display());
            }
        }
    };
    live(&mut store, &|store| _ = store.settle().unwrap(), &look);
}
