//! Which tokens take part on this node. Nothing is given a PIN before it stands here.
//!
//! Owns `admissions.json` in the state directory: one for a node, shared by the agent and the command line. It holds
//! no secret. It never decides by what a token says after its PIN was given, except that the fingerprint of its store
//! key has to be the pinned one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_store::{SystemClock, WriterLock};
use hsm_types::TokenId;
use serde::{Deserialize, Serialize};

use super::{Tie, read_if_there, write_atomic};

/// How long a change waits for another program's.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Who admitted a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The agent's own flags, as this text: they admit one token, the first that they meet.
    Flags(String),
    /// A person, by `hsm-agent token admit` or `init`.
    Person,
}

/// One token that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The token.
    pub token_id: TokenId,
    /// Its store key, as 32 hexadecimal digits. `None` until the store was opened the first time: then it is pinned.
    pub fingerprint: Option<String>,
    /// What carries it.
    pub tie: Tie,
    /// Who admitted it.
    pub by: By,
}

/// What is to be done with something that says it is this token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It takes part, and may be given its PIN. Where a fingerprint is pinned, its store key must have that one.
    Admitted {
        /// The pinned fingerprint.
        fingerprint: Option<String>,
    },
    /// Nothing is known of it: only the agent's own flags may admit it.
    New,
    /// It was forgotten (`hsm-agent token forget`): no PIN.
    Forgotten,
    /// Something else carries this TokenId: no PIN.
    OtherDevice {
        /// What was admitted.
        admitted: Tie,
    },
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    tokens: BTreeMap<String, Line>,
    /// The first admitted token that flags have met: they admit no other.
    #[serde(default)]
    met: BTreeMap<String, String>,
    forgotten: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    tie: String,
    /// The flags that admitted it; none for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flags: Option<String>,
}

/// The node's admissions as they were last read, and their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admissions {
    path: PathBuf,
    tokens: BTreeMap<TokenId, Admission>,
    met: BTreeMap<String, TokenId>,
    forgotten: BTreeSet<TokenId>,
}

impl Admissions {
    /// Reads the file; where there is none, nothing was admitted yet.
    ///
    /// A file that cannot be read or understood is an error: taking it for empty would admit a stranger.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("admissions.json");
        let mut this =
            Self { path, tokens: BTreeMap::new(), met: BTreeMap::new(), forgotten: BTreeSet::new() };
        this.refresh()?;
        Ok(this)
    }

    /// Reads the file anew.
    pub fn refresh(&mut self) -> io::Result<()> {
        let shown = self.path.display();
        let book: Book = match read_if_there(&self.path)
            .map_err(|e| io::Error::new(e.kind(), format!("{shown} cannot be read: {e}")))?
        {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| self.damaged(&e.to_string()))?,
            None => Book::default(),
        };
        let mut tokens = BTreeMap::new();
        for (id, line) in book.tokens {
            let token_id: TokenId = id.parse().map_err(|e| self.damaged(&format!("{id:?}: {e}")))?;
            let tie = line.tie.parse().map_err(|e: String| self.damaged(&e))?;
            let by = line.flags.map_or(By::Person, By::Flags);
            tokens.insert(token_id, Admission { token_id, fingerprint: line.fingerprint, tie, by });
        }
        let parse = |id: &String| id.parse().map_err(|e| self.damaged(&format!("{id:?}: {e}")));
        let forgotten = book.forgotten.iter().map(parse).collect::<io::Result<_>>()?;
        let met =
            book.met.iter().map(|(flags, id)| Ok((flags.clone(), parse(id)?))).collect::<io::Result<_>>()?;
        (self.tokens, self.met, self.forgotten) = (tokens, met, forgotten);
        Ok(())
    }

    /// Whether what says that it is `token_id` and is carried by `tie` may be given its PIN. Pure: of what was read.
    pub fn decide(&self, token_id: TokenId, tie: &Tie) -> Decision {
        if self.forgotten.contains(&token_id) {
            return Decision::Forgotten;
        }
        match self.tokens.get(&token_id) {
            None => Decision::New,
            Some(known) if known.tie == *tie => Decision::Admitted { fingerprint: known.fingerprint.clone() },
            Some(known) => Decision::OtherDevice { admitted: known.tie.clone() },
        }
    }

    /// The token that these flags stand for: the first one that they met. They admit no other while it is not
    /// forgotten.
    pub fn met_by(&self, flags: &str) -> Option<TokenId> {
        self.met.get(flags).copied().filter(|id| self.tokens.contains_key(id))
    }

    /// Whether a token with this tie was admitted: for one that has no identity (yet, or any more).
    pub fn knows_tie(&self, tie: &Tie) -> bool {
        self.tokens.values().any(|a| a.tie == *tie)
    }

    /// All admitted tokens, by TokenId.
    pub fn list(&self) -> Vec<Admission> {
        self.tokens.values().cloned().collect()
    }

    /// The forgotten ones: they are quarantined when they return.
    pub fn forgotten(&self) -> Vec<TokenId> {
        self.forgotten.iter().copied().collect()
    }

    /// Admits a token as it is carried now, whatever was kept of it before: a forgotten one as well. `fingerprint` is
    /// pinned; without one, that of the next open is.
    pub fn admit(
        &mut self,
        token_id: TokenId,
        fingerprint: Option<&str>,
        tie: Tie,
        by: By,
    ) -> io::Result<()> {
        self.change(|this| {
            this.forgotten.remove(&token_id);
            let fingerprint = fingerprint.map(str::to_owned);
            this.tokens.insert(token_id, Admission { token_id, fingerprint, tie, by });
        })
    }

    /// Admits a token by the agent's flags, unless something was decided about it, or about these flags, meanwhile.
    /// The answer is what holds then.
    pub fn admit_first(&mut self, token_id: TokenId, tie: &Tie, flags: &str) -> io::Result<Decision> {
        let _lock = self.lock()?;
        self.refresh()?;
        if self.decide(token_id, tie) == Decision::New && self.met_by(flags).is_none() {
            let by = By::Flags(flags.to_owned());
            self.met.insert(flags.to_owned(), token_id);
            self.tokens.insert(token_id, Admission { token_id, fingerprint: None, tie: tie.clone(), by });
            self.store()?;
        }
        Ok(self.decide(token_id, tie))
    }

    /// These flags have met this admitted token; the first one stays theirs, whoever admitted it.
    pub fn meet(&mut self, token_id: TokenId, flags: &str) -> io::Result<()> {
        if self.met_by(flags).is_some() {
            return Ok(());
        }
        self.change(|this| {
            if this.met_by(flags).is_none() {
                this.met.insert(flags.to_owned(), token_id);
            }
        })
    }

    /// Pins the store key of an admitted token that has none pinned yet. The answer is what is pinned then; `None`
    /// where the token is not admitted any more.
    pub fn pin(&mut self, token_id: TokenId, fingerprint: &str) -> io::Result<Option<String>> {
        let _lock = self.lock()?;
        self.refresh()?;
        let Some(known) = self.tokens.get_mut(&token_id) else { return Ok(None) };
        if let Some(pinned) = &known.fingerprint {
            return Ok(Some(pinned.clone()));
        }
        known.fingerprint = Some(fingerprint.to_owned());
        self.store()?;
        Ok(Some(fingerprint.to_owned()))
    }

    /// Forgets a token: it is given no PIN any more, and when it returns it is quarantined. `false`: it was forgotten
    /// already.
    pub fn forget(&mut self, token_id: TokenId) -> io::Result<bool> {
        let mut news = false;
        self.change(|this| {
            this.tokens.remove(&token_id);
            news = this.forgotten.insert(token_id);
        })?;
        Ok(news)
    }

    fn change(&mut self, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let _lock = self.lock()?;
        self.refresh()?;
        change(self);
        self.store()
    }

    fn lock(&self) -> io::Result<WriterLock> {
        let path = self.path.with_extension("lock");
        WriterLock::acquire(&path, LOCK_WAIT, &SystemClock)
            .map_err(|e| io::Error::other(format!("{} cannot be changed now: {e}", self.path.display())))
    }

    fn store(&self) -> io::Result<()> {
        let line = |a: &Admission| Line {
            fingerprint: a.fingerprint.clone(),
            tie: a.tie.to_string(),
            flags: match &a.by {
                By::Flags(text) => Some(text.clone()),
                By::Person => None,
            },
        };
        let book = Book {
            tokens: self.tokens.values().map(|a| (a.token_id.to_string(), line(a))).collect(),
            met: self.met.iter().map(|(flags, id)| (flags.clone(), id.to_string())).collect(),
            forgotten: self.forgotten.iter().map(ToString::to_string).collect(),
        };
        let json = serde_json::to_vec_pretty(&book).map_err(io::Error::other)?;
        write_atomic(&self.path, &json)
    }

    fn damaged(&self, why: &str) -> io::Error {
        let text = format!(
            "{} is damaged ({why}), so no token is given a PIN; mend it, or remove it and admit the tokens anew \
             (hsm-agent token admit)",
            self.path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> TokenId {
        TokenId::from_random([byte; 16])
    }

    fn tie(text: &str) -> Tie {
        Tie::Serial(text.to_owned())
    }

    fn admitted(fingerprint: Option<&str>) -> Decision {
        Decision::Admitted { fingerprint: fingerprint.map(str::to_owned) }
    }

    #[test]
    fn flags_admit_the_first_token_that_they_meet_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Admissions::load(dir.path()).unwrap();
        assert_eq!(book.decide(id(1), &tie("a")), Decision::New);
        assert_eq!(book.admit_first(id(1), &tie("a"), "label x").unwrap(), admitted(None));
        assert_eq!(book.admit_first(id(2), &tie("b"), "label x").unwrap(), Decision::New, "the newcomer");
        assert_eq!(book.admit_first(id(2), &tie("b"), "label y").unwrap(), admitted(None), "other flags");
        let again = Admissions::load(dir.path()).unwrap();
        assert_eq!(again.decide(id(1), &tie("a")), admitted(None), "it survives a restart");
        assert_eq!(again.met_by("label x"), Some(id(1)));
    }

    #[test]
    fn flags_stand_for_the_token_that_they_met_whoever_admitted_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Admissions::load(dir.path()).unwrap();
        book.admit(id(1), None, tie("a"), By::Person).unwrap();
        book.meet(id(1), "label x").unwrap();
        assert_eq!(book.admit_first(id(2), &tie("b"), "label x").unwrap(), Decision::New, "the newcomer");
        book.admit(id(2), None, tie("b"), By::Person).unwrap();
        book.meet(id(2), "label x").unwrap();
        assert_eq!(Admissions::load(dir.path()).unwrap().met_by("label x"), Some(id(1)), "the first stays");
    }

    #[test]
    fn a_token_id_on_another_device_is_not_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Admissions::load(dir.path()).unwrap();
        book.admit_first(id(1), &tie("a"), "f").unwrap();
        let other = Decision::OtherDevice { admitted: tie("a") };
        assert_eq!(book.decide(id(1), &tie("b")), other);
        assert_eq!(book.admit_first(id(1), &tie("b"), "g").unwrap(), other, "nor by other flags");
        book.admit(id(1), None, tie("b"), By::Person).unwrap();
        assert_eq!(book.decide(id(1), &tie("b")), admitted(None), "a person may say so");
        assert!(book.knows_tie(&tie("b")) && !book.knows_tie(&tie("a")));
    }

    #[test]
    fn the_first_fingerprint_stays_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Admissions::load(dir.path()).unwrap();
        assert_eq!(book.pin(id(1), "aa").unwrap(), None, "not admitted");
        book.admit_first(id(1), &tie("a"), "f").unwrap();
        assert_eq!(book.pin(id(1), "aa").unwrap().as_deref(), Some("aa"));
        assert_eq!(book.pin(id(1), "bb").unwrap().as_deref(), Some("aa"));
        assert_eq!(book.decide(id(1), &tie("a")), admitted(Some("aa")));
        book.admit(id(1), Some("bb"), tie("a"), By::Person).unwrap();
        assert_eq!(book.decide(id(1), &tie("a")), admitted(Some("bb")));
    }

    #[test]
    fn the_forgotten_stay_out_until_a_person_admits_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Admissions::load(dir.path()).unwrap();
        book.admit_first(id(1), &tie("a"), "f").unwrap();
        assert!(book.forget(id(1)).unwrap());
        assert!(!book.forget(id(1)).unwrap(), "forgotten already");
        assert!(book.forget(id(9)).unwrap(), "one that was never seen here");
        assert_eq!(book.decide(id(1), &tie("a")), Decision::Forgotten);
        assert_eq!(book.admit_first(id(1), &tie("a"), "g").unwrap(), Decision::Forgotten);
        assert_eq!(book.admit_first(id(2), &tie("b"), "f").unwrap(), admitted(None), "the flags are free");
        book.admit(id(1), None, tie("a"), By::Person).unwrap();
        assert_eq!(book.forgotten(), [id(9)]);
        assert_eq!(book.list().len(), 2);
    }

    #[test]
    fn two_programs_change_one_file_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 1..9 {
                let dir = dir.path();
                scope.spawn(move || {
                    let mut book = Admissions::load(dir).unwrap();
                    book.admit(id(n), None, tie("a"), By::Person).unwrap();
                });
            }
        });
        assert_eq!(Admissions::load(dir.path()).unwrap().list().len(), 8);
    }

    #[test]
    fn a_damaged_file_admits_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admissions.json");
        for bad in ["{", "[]", r#"{"tokens":{"x":{"tie":"usb:1"}},"forgotten":[]}"#, r#"{"tokens":{}}"#] {
            std::fs::write(&path, bad).unwrap();
            let error = Admissions::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("token admit"), "{error}");
        }
    }
}
