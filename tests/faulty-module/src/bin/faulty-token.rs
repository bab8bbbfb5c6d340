//! What the library does for a test, for a person: cards, readers and faults of a machine.
fn main() {}
