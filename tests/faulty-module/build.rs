//! Keeps the shared object in memory once it was loaded: aws-lc cleans up at the end of a thread, which would be in
//! code that is gone where a program unloads the module before its threads end.

fn main() {
    // The command's output is Cargo's interface, so it is written rather than printed.
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "cargo::rerun-if-changed=build.rs");
    let _ = writeln!(std::io::stdout(), "cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
