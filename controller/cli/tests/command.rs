//! The program, run as a person runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's own helpers fail by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use assert_cmd::Command;

fn hsm(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("kubectl-hsm").unwrap().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Answers one request, and gives its first line.
fn controller(answer: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut part = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let length = stream.read(&mut part).unwrap();
            assert!(length > 0, "the request breaks off");
            request.extend_from_slice(&part[..length]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
    });
    (url, served)
}

#[test]
fn the_own_version_needs_no_controller() {
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(hsm(&["version"]), (0, format!("Client: {own}\n"), String::new()));
    let (code, out, _) = hsm(&["version", "-o", "json"]);
    assert_eq!(
        (code, out.as_str()),
        (0, format!("{{\n  \"client\": {{\n    \"version\": \"{own}\"\n  }}\n}}\n").as_str())
    );
    let (code, out, _) = hsm(&["-o", "yaml", "version"]);
    assert_eq!((code, out.as_str()), (0, format!("client:\n  version: \"{own}\"\n").as_str()));
}

#[test]
fn the_controllers_version_is_asked_for() {
    let (url, served) = controller(
        "HTTP/1.1 200 OK\r\ncontent-length: 48\r\nconnection: close\r\n\r\n{\"version\":\"9.8.7\",\"commit\":\"abc1234\",\"more\":1} ",
    );
    let (code, out, err) = hsm(&["version", "--server", &url]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.ends_with("Server: 9.8.7 (abc1234)\n"), "{out}");
    assert_eq!(served.join().unwrap(), "GET /api/v1/version HTTP/1.1");
}

#[test]
fn a_controller_that_does_not_answer_well_is_an_error_that_says_so() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let (code, out, err) = hsm(&["version", "--server", &closed]);
    assert_eq!(code, 1);
    assert!(out.starts_with("Client:"), "our own version is known all the same: {out}");
    assert!(err.contains("cannot reach the controller at") && err.contains(&closed), "{err}");

    let (url, served) =
        controller("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let (code, _, err) = hsm(&["version", "--server", &url]);
    assert!(code == 1 && err.contains("404"), "{err}");
    served.join().unwrap();

    let (url, served) = controller("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
    let (code, _, err) = hsm(&["version", "--server", &url]);
    assert!(code == 1 && err.contains("does not answer as the controller would"), "{err}");
    served.join().unwrap();
}

#[test]
fn wrong_use_is_exit_code_2() {
    for (arguments, word) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["version", "-o", "name"], "has no name"),
        (&["version", "-o", "xml"], "invalid value"),
        (&["version", "--server", "http://10.0.0.1:8090"], "this machine only"),
        (&["version", "--server", "http://127.0.0.1.example.org"], "this machine only"),
        (&["version", "--server", "https://127.0.0.1:8090"], "not supported yet"),
        (&["version", "--server", "127.0.0.1:8090"], "expected a URL"),
        (&["completion", "tcsh"], "invalid value"),
        (&[], "Usage: kubectl hsm"),
    ] {
        let (code, out, err) = hsm(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(word), "{arguments:?}: {err}");
    }
}

#[test]
fn three_shells_are_completed() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = hsm(&["completion", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("kubectl-hsm") && out.contains("completion"), "{shell}");
    }
}
