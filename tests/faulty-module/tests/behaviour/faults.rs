//! Faults by script.

use super::*;
use faulty_pkcs11::{Action, Fault, ObjectKind, When};

fn fail(name: &str) -> Action {
    Action::Fail(name.to_owned())
}

#[test]
fn a_call_fails_before_or_after_its_work() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    machine.script(Fault::at("C_CreateObject", 2, When::Before, fail("CKR_DEVICE_ERROR"))).unwrap();
    machine.script(Fault::at("C_CreateObject", 3, When::After, fail("0x80000001"))).unwrap();
    a.ok("create one public x");
    assert_eq!(a.fails("create two public x"), "DeviceError");
    assert!(a.fails("create three public x").starts_with("VendorDefined"));
    a.ok("create four public x");
    let labels: Vec<_> = machine.objects(READER).unwrap().into_iter().map(|o| o.label).collect();
    assert_eq!(labels, ["one", "three", "four"]);
    assert_eq!(machine.struck().unwrap(), 2);
    machine.clear_script().unwrap();
    assert_eq!(machine.struck().unwrap(), 0);
}

#[test]
fn any_function_is_counted_over_all_processes() {
    let (_dir, machine) = machine();
    let (mut a, mut b) = (Remote::logged_in(&machine), Remote::logged_in(&machine));
    machine.script(Fault::at_call(2, When::Before, fail("CKR_FUNCTION_FAILED")).for_ever()).unwrap();
    a.ok("random 1");
    assert_eq!(b.fails("random 1"), "FunctionFailed");
    assert_eq!(a.fails("random 1"), "FunctionFailed");
}

#[test]
fn a_crash_in_the_middle_of_destroy_leaves_a_ghost() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let made = a.ok("create a private x");
    machine.script(Fault::at("C_DestroyObject", 1, When::Between, Action::Crash)).unwrap();
    assert_eq!(a.fails(&format!("destroy {made}")), "DIED");
    let mut b = Remote::logged_in(&machine);
    let ghost = handle(&mut b, "a");
    assert_eq!(b.fails(&format!("read {ghost}")), "GeneralError");
    assert_eq!(b.fails(&format!("destroy {ghost}")), "GeneralError");
    assert_eq!(machine.objects(READER).unwrap()[0].kind, ObjectKind::Ghost);
    assert_eq!(machine.log().unwrap().iter().filter(|call| call.result == "crash" && call.struck).count(), 1);
}

#[test]
fn a_crash_in_the_middle_of_create_leaves_an_orphan() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    machine.script(Fault::at("C_CreateObject", 1, When::Between, Action::Crash)).unwrap();
    assert_eq!(a.fails("create a private x"), "DIED");
    assert_eq!(machine.objects(READER).unwrap()[0].kind, ObjectKind::Orphan);
    assert_eq!(Remote::logged_in(&machine).ok("count"), "0");
}

#[test]
fn the_token_goes_after_the_call_did_its_work() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    machine.script(Fault::at("C_CreateObject", 1, When::After, Action::Remove)).unwrap();
    a.ok("create a private x");
    assert_eq!(a.fails("state"), "SessionHandleInvalid");
    let drawer = machine.drawer().unwrap();
    assert_eq!(machine.objects(&drawer[0]).unwrap()[0].label, "a");
}

/// A hang ends with the process only; nobody else waits for it.
#[test]
fn a_hang_is_that_process_alone() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    machine.script(Fault::at("C_GenerateRandom", 1, When::Before, Action::Hang(None))).unwrap();
    let hanging = std::thread::spawn(move || (a.ask("random 1"), a));
    while machine.log().unwrap().last().unwrap().result != "hang" {
        std::thread::yield_now();
    }
    Remote::logged_in(&machine).ok("create b private x");
    assert!(!hanging.is_finished());
    // The thread's process is ended by its id, so that the thread can be joined.
    let pid = machine.log().unwrap().iter().find(|call| call.result == "hang").unwrap().pid;
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(hanging.join().unwrap().0, Err("DIED".to_owned()));
}

#[test]
fn a_script_that_makes_no_sense_is_refused() {
    let (_dir, machine) = machine();
    assert!(machine.script(Fault::at("C_Login", 0, When::Before, Action::Crash)).is_err());
    assert!(machine.script(Fault::at("Login", 1, When::Before, Action::Crash)).is_err());
    assert!(machine.script(Fault::at("C_Login", 1, When::Before, fail("CKR_NONSENSE"))).is_err());
}

#[test]
fn nothing_secret_is_in_the_log() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    a.ok("create label private canary-value");
    let log = std::fs::read_to_string(machine.dir().join("calls.log")).unwrap();
    assert!(log.contains("\"label\":\"label\"") && log.contains("\"length\":12"));
    assert!(!log.contains("canary") && !log.contains(PIN));
}
