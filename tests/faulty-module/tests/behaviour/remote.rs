//! A process that uses the module through cryptoki, and does what the test tells it, line by line: C_Initialize is per
//! process, and half of what is tested needs two of them.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use faulty_pkcs11::{Machine, module_path};

/// What a line begins with that is an answer, and not the test harness's own.
const MARK: &str = "ANSWER ";

/// The process, seen from the test. Killed when dropped.
pub(crate) struct Remote {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Remote {
    /// A process that has loaded the module, and not initialised it.
    pub(crate) fn new(machine: &Machine) -> Self {
        Self::with(machine, &[])
    }

    pub(crate) fn with(machine: &Machine, env: &[(&str, &std::path::Path)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "remote_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env("FAULTY_TEST_REMOTE", "1")
            .envs(machine.env())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Initialised, with a session in slot 0 and logged in.
    pub(crate) fn logged_in(machine: &Machine) -> Self {
        let mut remote = Self::new(machine);
        for line in ["init", "open 0", &format!("login {}", crate::PIN)] {
            remote.ok(line);
        }
        remote
    }

    /// What the process answers; the name of the error, or `DIED`.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, String> {
        if writeln!(self.input, "{line}").is_err() {
            return Err("DIED".to_owned());
        }
        let mut answer = String::new();
        loop {
            answer.clear();
            if self.output.read_line(&mut answer).unwrap() == 0 {
                self.child.wait().unwrap();
                return Err("DIED".to_owned());
            }
            if let Some((_, answer)) = answer.trim_end().split_once(MARK) {
                let (how, what) = answer.split_once(' ').unwrap_or((answer, ""));
                return if how == "ok" { Ok(what.to_owned()) } else { Err(what.to_owned()) };
            }
        }
    }

    pub(crate) fn ok(&mut self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    pub(crate) fn fails(&mut self, line: &str) -> String {
        match self.ask(line) {
            Err(error) => error,
            Ok(answer) => panic!("{line}: {answer}"),
        }
    }

    /// The process id.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself.
pub(crate) fn serve() {
    let mut worker = Worker { module: Pkcs11::new(module_path().unwrap()).unwrap(), session: None };
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match worker.obey(&words) {
            Ok(answer) => println!("{MARK}ok {answer}"),
            Err(Error::Pkcs11(value, _)) => println!("{MARK}err {value:?}"),
            Err(other) => println!("{MARK}err {other:?}"),
        }
    }
}

struct Worker {
    module: Pkcs11,
    session: Option<Session>,
}

fn pin(text: &str) -> AuthPin {
    AuthPin::from(text.to_owned())
}

fn slot(text: &str) -> Slot {
    Slot::try_from(text.parse::<u64>().unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

impl Worker {
    fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }

    /// Handles are of the module: they are found again among all that it lists, or were just made.
    fn handle(&self, text: &str) -> ObjectHandle {
        // cryptoki gives no constructor; a handle is one number.
        let number: u64 = text.parse().unwrap();
        let found = self.session().find_objects(&[]).unwrap_or_default();
        found.into_iter().find(|h| h.handle() == number).unwrap_or_else(|| {
            MADE.with_borrow(|made| {
                *made.iter().find(|h| h.handle() == number).expect("a handle that was never seen")
            })
        })
    }

    fn obey(&mut self, words: &[&str]) -> Result<String, Error> {
        let done = |()| String::new();
        match words {
            ["init"] => {
                self.module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map(done)
            }
            ["finalize"] => {
                self.session = None;
                self.module.clone().finalize().map(done)
            }
            ["slots"] => Ok(format!(
                "{:?}",
                self.module.get_slots_with_token()?.iter().map(Slot::id).collect::<Vec<_>>()
            )),
            ["readers"] => {
                let slots = self.module.get_slots_with_token()?;
                let name = |slot: &Slot| {
                    Ok(self.module.get_slot_info(*slot)?.slot_description().trim_end().to_owned())
                };
                Ok(slots.iter().map(name).collect::<Result<Vec<_>, Error>>()?.join(","))
            }
            ["token", id] => {
                let t = self.module.get_token_info(slot(id))?;
                Ok(format!(
                    "{}|{}|{}|initialized={} pin={} low={} final={} locked={} {}..{} memory={:?}",
                    t.label(),
                    t.serial_number(),
                    t.manufacturer_id(),
                    t.token_initialized(),
                    t.user_pin_initialized(),
                    t.user_pin_count_low(),
                    t.user_pin_final_try(),
                    t.user_pin_locked(),
                    t.min_pin_length(),
                    t.max_pin_length(),
                    t.free_private_memory()
                ))
            }
            ["init-token", id, so] => self.module.init_token(slot(id), &pin(so), "label").map(done),
            ["open", id] => {
                self.session = Some(self.module.open_rw_session(slot(id))?);
                Ok(String::new())
            }
            ["state"] => Ok(format!("{:?}", self.session().get_session_info()?.session_state())),
            ["login", text] => self.session().login(UserType::User, Some(&pin(text))).map(done),
            ["so", text] => self.session().login(UserType::So, Some(&pin(text))).map(done),
            ["init-pin", text] => self.session().init_pin(&pin(text)).map(done),
            ["set-pin", old, new] => self.session().set_pin(&pin(old), &pin(new)).map(done),
            ["logout"] => self.session().logout().map(done),
            ["create", label, how, rest @ ..] => {
                let value = match rest.first() {
                    Some(size) if size.starts_with('#') => vec![b'v'; size[1..].parse().unwrap()],
                    Some(text) => text.as_bytes().to_vec(),
                    None => Vec::new(),
                };
                let mut template = vec![
                    Attribute::Class(ObjectClass::DATA),
                    Attribute::Token(true),
                    Attribute::Private(*how == "private"),
                    Attribute::Label(label.as_bytes().to_vec()),
                    Attribute::Value(value),
                ];
                template.extend(
                    rest.get(1).map(|app| Attribute::Application(app.replace("\\0", "\0").into_bytes())),
                );
                let made = self.session().create_object(&template)?;
                MADE.with_borrow_mut(|all| all.push(made));
                Ok(made.handle().to_string())
            }
            ["list"] => {
                let mut all = Vec::new();
                for object in self.session().find_objects(&[Attribute::Class(ObjectClass::DATA)])? {
                    MADE.with_borrow_mut(|all| all.push(object));
                    for attribute in self.session().get_attributes(object, &[AttributeType::Label])? {
                        if let Attribute::Label(label) = attribute {
                            all.push(format!("{}={}", String::from_utf8_lossy(&label), object.handle()));
                        }
                    }
                }
                Ok(all.join(","))
            }
            ["find", label] => {
                let found = self.session().find_objects(&[Attribute::Label(label.as_bytes().to_vec())])?;
                Ok(found.iter().map(|h| h.handle().to_string()).collect::<Vec<_>>().join(","))
            }
            ["count"] => Ok(self.session().find_objects(&[])?.len().to_string()),
            ["read", handle] => {
                match self.session().get_attributes(self.handle(handle), &[AttributeType::Value])?.first() {
                    Some(Attribute::Value(value)) => Ok(String::from_utf8_lossy(value).into_owned()),
                    other => Ok(format!("{other:?}")),
                }
            }
            ["get", handle, kind] => {
                let kind = match *kind {
                    "application" => AttributeType::Application,
                    "id" => AttributeType::Id,
                    "unique-id" => AttributeType::UniqueId,
                    "destroyable" => AttributeType::Destroyable,
                    "copyable" => AttributeType::Copyable,
                    "label" => AttributeType::Label,
                    other => panic!("{other}"),
                };
                let info = self.session().get_attribute_info(self.handle(handle), &[kind])?;
                let values = self.session().get_attributes(self.handle(handle), &[kind])?;
                match values.first() {
                    Some(Attribute::Application(v) | Attribute::Label(v)) => {
                        Ok(String::from_utf8_lossy(v).into_owned())
                    }
                    Some(other) => Ok(format!("{other:?}")),
                    None => Ok(format!("{:?}", info[0])),
                }
            }
            ["destroy", handle] => self.session().destroy_object(self.handle(handle)).map(done),
            ["copy", handle] => self.session().copy_object(self.handle(handle), &[]).map(|_| String::new()),
            ["set-value", handle] => self
                .session()
                .update_attributes(self.handle(handle), &[Attribute::Value(b"x".to_vec())])
                .map(done),
            ["pair", label] => {
                const P256: [u8; 10] = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
                let public = [Attribute::KeyType(KeyType::EC), Attribute::EcParams(P256.to_vec())];
                let private = [Attribute::Label(label.as_bytes().to_vec()), Attribute::Derive(true)];
                let (public, private) =
                    self.session().generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
                MADE.with_borrow_mut(|all| all.extend([public, private]));
                let point = match self.session().get_attributes(public, &[AttributeType::EcPoint])?.first() {
                    Some(Attribute::EcPoint(point)) => hex(point),
                    other => format!("{other:?}"),
                };
                Ok(format!("{} {} {point}", public.handle(), private.handle()))
            }
            ["derive", handle, point] => {
                let point = unhex(point);
                let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), &point));
                let key = self.session().derive_key(&mechanism, self.handle(handle), &[])?;
                match self.session().get_attributes(key, &[AttributeType::Value])?.first() {
                    Some(Attribute::Value(secret)) => Ok(hex(secret)),
                    other => Ok(format!("{other:?}")),
                }
            }
            ["random", len] => {
                let mut bytes = vec![0; len.parse().unwrap()];
                self.session().generate_random_slice(&mut bytes)?;
                Ok(hex(&bytes))
            }
            other => panic!("not a command: {other:?}"),
        }
    }
}

thread_local! {
    static MADE: std::cell::RefCell<Vec<ObjectHandle>> = const { std::cell::RefCell::new(Vec::new()) };
}
