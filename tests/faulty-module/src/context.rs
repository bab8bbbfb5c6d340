//! One call, from its entry to its answer: faults before, between and after, the log line, and the time it takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use cryptoki_sys as ck;

use crate::calls::{self, Call, From};
use crate::disk::{Card, Disk, now_millis};
use crate::faults::{self, Action, When};
use crate::machine::Machine;
use crate::process::Process;
use crate::rv::{Done, Rv};

/// The process's state: `None` before C_Initialize and after C_Finalize.
static STATE: Mutex<Option<Process>> = Mutex::new(None);
/// Whether calls are written down; known from C_Initialize on.
static LOGGING: AtomicBool = AtomicBool::new(true);

/// Which reader a call is about.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Module,
    Slot(ck::CK_SLOT_ID),
    Session(ck::CK_SESSION_HANDLE),
}

/// What a call keeps about itself.
pub(crate) struct Context {
    pub(crate) disk: Disk,
    pub(crate) call: Call,
    between: Option<Action>,
    apdu_micros: u64,
    slept_apdus: u64,
}

/// Says what went wrong outside of PKCS#11, and gives the value that stands for it.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(crate) fn trouble(error: std::io::Error) -> Rv {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "faulty PKCS#11 module: {error}");
    Rv::CKR_GENERAL_ERROR
}

impl Context {
    /// Counts APDUs, on the card and in the log.
    pub(crate) fn apdus(&mut self, card: &mut Card, count: u64) {
        card.head.counters.apdus += count;
        self.call.apdus += count;
        self.call.from = From::Card;
    }

    /// Whether the card has to be saved in the middle of its writes, because something may happen there.
    pub(crate) fn has_a_middle(&self) -> bool {
        self.between.is_some() || self.apdu_micros > 0
    }

    /// The middle of a call's writes. The machine must not be locked.
    pub(crate) fn middle(&mut self) -> Done {
        self.pause();
        match self.between.take() {
            Some(action) => self.strike(&action),
            None => Ok(()),
        }
    }

    /// Takes the time of the APDUs since the last pause.
    fn pause(&mut self) {
        let micros = (self.call.apdus - self.slept_apdus) * self.apdu_micros;
        self.slept_apdus = self.call.apdus;
        if micros > 0 {
            sleep(Duration::from_micros(micros));
        }
    }

    fn strike(&mut self, action: &Action) -> Done {
        self.call.struck = true;
        match action {
            Action::Fail(name) => Err(Rv::parse(name).unwrap_or(Rv::CKR_GENERAL_ERROR)),
            Action::Hang(Some(millis)) => {
                sleep(Duration::from_millis(*millis));
                Ok(())
            }
            Action::Hang(None) => {
                self.write_down("hang");
                loop {
                    sleep(Duration::from_hours(1));
                }
            }
            Action::Crash => self.crash(),
            Action::Remove => {
                let machine = Machine::of(&self.disk);
                let reader = match &self.call.reader {
                    Some(reader) => Some(reader.clone()),
                    None => machine.readers().map_err(trouble)?.into_iter().next(),
                };
                match reader.map(|reader| machine.unplug(&reader)) {
                    Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => Err(trouble(e)),
                    _ => Ok(()),
                }
            }
            Action::RestartPcscd => Machine::of(&self.disk).restart_pcscd().map_err(trouble),
        }
    }

    pub(crate) fn crash(&mut self) -> ! {
        self.write_down("crash");
        std::process::abort()
    }

    fn write_down(&mut self, result: &str) {
        if !LOGGING.load(Ordering::Relaxed) {
            return;
        }
        self.call.at_millis = now_millis();
        self.call.pid = std::process::id();
        result.clone_into(&mut self.call.result);
        if let Err(error) = calls::append(&self.disk, &self.call) {
            trouble(error);
        }
    }
}

fn state() -> MutexGuard<'static, Option<Process>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one call. Nothing unwinds out of it.
pub(crate) fn enter(
    function: &'static str,
    target: Target,
    work: impl FnOnce(&mut Option<Process>, &mut Context) -> Done,
) -> ck::CK_RV {
    let done = catch_unwind(AssertUnwindSafe(|| run(function, target, work)));
    match done {
        Ok(Ok(())) => ck::CKR_OK,
        Ok(Err(rv)) => rv.0,
        Err(_) => ck::CKR_GENERAL_ERROR,
    }
}

fn run(
    function: &'static str,
    target: Target,
    work: impl FnOnce(&mut Option<Process>, &mut Context) -> Done,
) -> Done {
    let dir = std::env::var_os(crate::DIR_VARIABLE).ok_or_else(|| {
        trouble(std::io::Error::other(format!(
            "{} is not set: it names the machine's folder, which `faulty-token init` makes",
            crate::DIR_VARIABLE
        )))
    })?;
    let disk = Disk::new(dir);
    let strikes = faults::count(&disk, function).map_err(trouble)?;
    let (reader, apdu_micros) = match state().as_ref() {
        Some(process) => (process.reader_of(target), process.settings.apdu_micros),
        None => (None, 0),
    };
    let mut context = Context {
        disk,
        call: Call { function: function.to_owned(), reader, ..Call::default() },
        between: None,
        apdu_micros,
        slept_apdus: 0,
    };
    let result = with_faults(strikes, &mut context, |context| {
        let mut state = state();
        let result = work(&mut state, context);
        if let Some(process) = state.as_ref() {
            LOGGING.store(process.settings.log, Ordering::Relaxed);
            context.apdu_micros = process.settings.apdu_micros;
        }
        result
    });
    context.pause();
    context.write_down(&result.err().map_or_else(|| "CKR_OK".to_owned(), Rv::name));
    result
}

fn with_faults(
    strikes: Vec<(When, Action)>,
    context: &mut Context,
    work: impl FnOnce(&mut Context) -> Done,
) -> Done {
    let mut after = Vec::new();
    for (when, action) in strikes {
        match when {
            When::Before => context.strike(&action)?,
            When::Between => context.between = Some(action),
            When::After => after.push(action),
        }
    }
    let result = work(context);
    after.extend(context.between.take());
    for action in after {
        context.strike(&action)?;
    }
    result
}
