//! SCENARIOS 28: no value and no PIN is in any log, metric, argument, environment, error or file of state.

use std::path::Path;

use faulty_pkcs11::{Action, Fault, When};
use hsm_proto::agent::{
    ChangePinRequest, Content, GetRecordRequest, InitializeTokenRequest, PutRecordRequest, TokenState,
    UnlockTokenRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cards::{Hardware, ONE, put};
use crate::node::{Agent, Client, Node};

const VALUE: &str = "canary-value-Zq81";
const KEY: &str = "canary-key-Zq82";
/// A PIN that was never right.
const WRONG: &str = "canary-wrong-83";
/// As a Pico HSM takes it: 6 to 16 characters.
const PIN: &str = "canary-pin-84";
const NEW_PIN: &str = "canary-new-85";

/// The forms in which a secret could have got somewhere.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    let mut all = vec![secret.into(), hex.clone().into(), hex.to_uppercase().into()];
    // As Debug and JSON show bytes.
    all.extend([numbers.join(", ").into_bytes(), numbers.join(",").into_bytes()]);
    // Base64 of whatever begins with it: the whole groups are the same.
    let whole = secret.len() / 3 * 3;
    all.push(base64(&secret.as_bytes()[..whole]).into_bytes());
    all
}

/// RFC 4648, section 4, of a whole number of groups.
fn base64(bytes: &[u8]) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| alphabet[bits >> shift & 63])
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

/// Where it was looked, and what is there.
#[derive(Default)]
struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    fn text(&mut self, place: &str, text: impl Into<Vec<u8>>) {
        self.0.push((place.to_owned(), text.into()));
    }

    fn error<T>(&mut self, place: &str, outcome: Result<T, tonic::Status>) {
        let error = outcome.map(drop).unwrap_err();
        self.text(place, format!("{error:?} {error} {:?}", error.metadata()));
    }

    fn folder(&mut self, folder: &Path) {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                self.folder(&path);
            } else {
                self.text(&path.display().to_string(), path.as_os_str().as_encoded_bytes());
                // A socket has no content.
                self.text(&path.display().to_string(), std::fs::read(&path).unwrap_or_default());
            }
        }
    }

    /// The agent and its worker: arguments, environment, and that nobody can take their memory.
    fn processes(&mut self, agent: &Agent) {
        let mut pids = agent.children();
        assert_eq!(pids.len(), 1);
        pids.push(agent.pid().cast_signed());
        for pid in pids {
            let proc = Path::new("/proc").join(pid.to_string());
            self.text("argv", std::fs::read(proc.join("cmdline")).unwrap());
            match std::fs::read(proc.join("environ")) {
                Ok(environ) => self.text("environment", environ),
                // Not dumpable: nobody but root may look.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
            }
            let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            let words: Vec<&str> = core.split_whitespace().collect();
            assert_eq!(words[4..6], ["0", "0"], "{core}");
            if !nix::unistd::geteuid().is_root() {
                use std::os::unix::fs::MetadataExt as _;
                // proc(5): the files of a process that is not dumpable are root's.
                assert_eq!(std::fs::metadata(proc.join("environ")).unwrap().uid(), 0, "{pid} is dumpable");
            }
        }
    }

    fn nothing_of_it(&self) {
        for secret in [VALUE, KEY, WRONG, PIN, NEW_PIN] {
            for form in forms(secret) {
                for (place, text) in &self.0 {
                    let found = text.windows(form.len()).any(|part| part == form);
                    assert!(!found, "{secret} is in {place}:\n{}", String::from_utf8_lossy(text));
                }
            }
        }
    }

    fn all_of(&mut self, node: &Node, agent: &Agent) {
        self.processes(agent);
        self.text("the log", agent.log());
        self.text("the metrics", agent.http("/metrics").1);
        for folder in ["state", "run"] {
            self.folder(&node.path(folder));
        }
    }
}

#[test]
fn what_is_searched_for_would_be_found() {
    for form in forms(VALUE) {
        let mut seen = Seen::default();
        seen.text("here", [b"before ".as_slice(), &form, b" after"].concat());
        assert!(std::panic::catch_unwind(|| seen.nothing_of_it()).is_err());
    }
    assert_eq!(base64(b"foobar"), "Zm9vYmFy");
}

fn secret(token: &str, path: &str) -> PutRecordRequest {
    let data = [(KEY.to_owned(), VALUE.as_bytes().to_vec())].into();
    PutRecordRequest { content: Some(Content { data, metadata: None }), ..put(token, path) }
}

/// Values and PINs on all ways in and out, refused ones too.
async fn use_it(client: &mut Client, seen: &mut Seen, token: &str) {
    client.records.put(secret(token, "a")).await.unwrap();
    let get = GetRecordRequest { token_id: token.into(), path: "a".into() };
    let got = client.records.get(get).await.unwrap().into_inner();
    assert_eq!(got.records[0].content.as_ref().unwrap().data[KEY], VALUE.as_bytes());
    // Another value where nothing may be.
    let mut other = secret(token, "a");
    other.content.as_mut().unwrap().data.insert("k".into(), VALUE.repeat(2).into());
    seen.error("a conflict", client.records.put(other).await);
    seen.error("a bad path", client.records.put(secret(token, "a//b")).await);
    let mut large = secret(token, "large");
    large.content.as_mut().unwrap().data.insert("k".into(), VALUE.repeat(20_000).into());
    seen.error("a large value", client.records.put(large).await);
    let mut unfenced = secret(token, "b");
    unfenced.fence = None;
    seen.error("no fence", client.records.put(unfenced).await);
    let init = InitializeTokenRequest { label: "test".into(), pin: PIN.into(), so_pin: WRONG.into() };
    seen.error("initialise", client.tokens.initialize_token(init).await);
}

const TRACE: &[(&str, &str)] = &[
    ("HSM_WORKER_LOG", "trace"),
    // Also where somebody asks for what goes over the wire.
    ("HSM_LOG_LEVEL", "trace,h2=trace,tonic=trace,rustls=trace"),
];

#[tokio::test]
async fn nothing_of_a_value_or_a_pin_gets_out_with_a_software_token() {
    let node = Node::new();
    std::fs::write(node.path("pin"), PIN).unwrap();
    node.ok(&["init", "--yes"]);
    assert_eq!(node.pin(), PIN);
    let agent = node.run_args(&[], TRACE);
    let mut client = node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    let mut seen = Seen::default();
    use_it(&mut client, &mut seen, &token).await;
    let change = |old: &str| ChangePinRequest {
        token_id: token.clone(),
        old_pin: old.into(),
        new_pin: NEW_PIN.into(),
    };
    seen.error("a wrong PIN", client.tokens.change_pin(change(WRONG)).await);
    client.until(TokenState::Ready).await;
    client.tokens.change_pin(change(PIN)).await.unwrap();
    // The file has the old PIN still: the worker that comes next is given it only once.
    seen.all_of(&node, &agent);
    kill(Pid::from_raw(agent.children()[0]), Signal::SIGKILL).unwrap();
    std::fs::write(node.path("pin"), WRONG).unwrap();
    drop(agent);
    let agent = node.run_args(&[], TRACE);
    let mut client = node.client(&agent).await;
    let locked = client.until(TokenState::Locked).await;
    seen.text("the status", format!("{locked:?}"));
    let unlock = |pin: &str| UnlockTokenRequest { token_id: token.clone(), pin: pin.into() };
    seen.error("a wrong PIN", client.tokens.unlock_token(unlock(PIN)).await);
    client.tokens.unlock_token(unlock(NEW_PIN)).await.unwrap();
    seen.text("the status", format!("{:?}", client.until(TokenState::Ready).await));
    seen.all_of(&node, &agent);
    assert!(agent.log().contains("\"TRACE\"") || agent.log().contains("\"DEBUG\""), "nothing was logged");
    seen.nothing_of_it();
}

#[tokio::test]
async fn nothing_of_a_value_or_a_pin_gets_out_when_a_card_fails() {
    let (hardware, _) = Hardware::with_pin(PIN);
    let agent = hardware.run_with(&[ONE], TRACE);
    let mut client = hardware.node.client(&agent).await;
    let token = client.until(TokenState::Ready).await.token_id;
    let mut seen = Seen::default();
    use_it(&mut client, &mut seen, &token).await;
    for (n, (function, action)) in [
        ("C_CreateObject", Action::Fail("CKR_GENERAL_ERROR".into())),
        ("C_CreateObject", Action::Crash),
        ("C_CreateObject", Action::Fail("CKR_DEVICE_MEMORY".into())),
    ]
    .into_iter()
    .enumerate()
    {
        let epoch = client.until(TokenState::Ready).await.session_epoch;
        hardware.machine.script(Fault::at(function, 1, When::Before, action.clone())).unwrap();
        seen.error(function, client.records.put(secret(&token, &format!("p/{n}"))).await);
        seen.text("the status", format!("{:?}", client.status().await));
        if n < 2 {
            let again = |list: &[hsm_proto::agent::TokenStatus]| list[0].session_epoch > epoch;
            client.until_list(again).await;
        }
    }
    client.until(TokenState::Ready).await;
    seen.all_of(&hardware.node, &agent);
    seen.nothing_of_it();
}
