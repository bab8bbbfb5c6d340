//! What the rest of the agent is told of a token: its status and its records, as one value.

use std::sync::Arc;

use hsm_store::format::Damage;
use hsm_token::TokenInfo;

use super::down::Down;
use super::handle::Opened;
use super::thread::Actor;
use super::{Records, State, Status, View};
use crate::reason::Reason;

impl Actor {
    pub(super) fn publish_ready(&mut self, store: &mut Opened) {
        let bytes = self.replaced + store.bytes_replaced();
        self.config.metrics.bytes_replaced.inc_by(bytes.saturating_sub(self.status.bytes_replaced));
        self.status.bytes_replaced = bytes;
        let leaking = self.leaked + store.bytes_leaking();
        self.config.metrics.bytes_leaking.inc_by(leaking.saturating_sub(self.leaking));
        self.leaking = leaking;
        self.status.pending = store.pending() as u64;
        let index = store.index();
        self.status.history = index.entries().values().map(|entry| entry.history.len() as u64).sum();
        self.status.objects = index.counts().total() as u64;
        let ghost = |object: &&hsm_store::DamagedObject| matches!(object.damage, Damage::Unreadable(_));
        self.status.ghosts = index.damaged().iter().filter(ghost).count() as u64;
        self.status.damaged = index.damaged().iter().map(ToString::to_string).collect();
        self.status.state = State::Ready;
        let (reason, message) = remark(&self.status);
        (self.status.reason, self.status.message) = (reason, message.to_owned());
        let before = self.view.borrow().records.clone();
        let records = Records::of(store.index(), before.as_deref());
        self.publish(Some(Arc::new(records)));
    }

    pub(super) fn publish_down(&mut self, down: &Down) {
        let same = (self.status.state, self.status.reason) == (down.state, down.reason);
        self.status.state = down.state;
        self.status.reason = down.reason;
        match down.state {
            State::Absent => self.config.peers.sees(self.config.place, None),
            _ => self.config.peers.has_looked(self.config.place),
        }
        if down.disputed {
            self.status.token_id = None;
        }
        self.status.message.clone_from(&down.message);
        let reason = down.reason.map_or("", Reason::as_str);
        // The same trouble again is not news.
        if self.stopping || same {
            tracing::debug!(reason, state = ?down.state, detail = down.message, "The token is not served.");
        } else {
            tracing::warn!(reason, state = ?down.state, detail = down.message, "The token is not served.");
        }
        self.publish(None);
    }

    fn publish(&mut self, records: Option<Arc<Records>>) {
        let told = self.view.borrow().status.token_id;
        if let Some(other) = told.filter(|id| self.status.token_id != Some(*id)) {
            self.config.metrics.forget(other);
        }
        self.config.metrics.status(&self.status);
        self.view.send_if_modified(|view| {
            let next = View { revision: view.revision + 1, status: self.status.clone(), records };
            let news = view.status != next.status || next.since(Some(view)).is_some();
            if news {
                *view = Arc::new(next);
            }
            news
        });
    }
}

/// The first firmware of a Pico HSM that does not give private objects to a raw read without PIN.
const SECURE_FIRMWARE: (u32, u32) = (6, 6);

/// What a person has to be told of a token that serves.
fn remark(status: &Status) -> (Option<Reason>, &'static str) {
    if !status.damaged.is_empty() {
        return (Some(Reason::RecordDamaged), "some objects on the token cannot be read; see damaged");
    }
    if status.info.as_ref().is_some_and(insecure) {
        let message = "the firmware of this Pico HSM is older than 6.6: it gives private objects to whoever reads it \
                       raw, without a PIN. The records are encrypted all the same; update the firmware";
        return (Some(Reason::FirmwareInsecure), message);
    }
    (None, "")
}

/// A Pico HSM whose firmware is known, and too old. Its serial is the same on all of them (TOKEN.md).
pub(crate) fn insecure(info: &TokenInfo) -> bool {
    let version = info
        .firmware
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    info.serial.starts_with("ESPICOHSM") && version.is_some_and(|v| v != (0, 0) && v < SECURE_FIRMWARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_firmware_of_a_pico_is_said_and_nobody_elses() {
        let info = |serial: &str, firmware: &str| TokenInfo {
            serial: serial.into(),
            firmware: firmware.into(),
            ..TokenInfo::default()
        };
        for (firmware, old) in
            [("5.6", true), ("6.2", true), ("6.6", false), ("6.10", false), ("0.0", false), ("", false)]
        {
            assert_eq!(insecure(&info("ESPICOHSMTR", firmware)), old, "{firmware}");
        }
        assert!(!insecure(&info("DENK0100751", "3.5")));
        let status = Status { info: Some(info("ESPICOHSMTR", "5.6")), ..Status::default() };
        assert_eq!(remark(&status).0, Some(Reason::FirmwareInsecure));
        let damaged = Status { damaged: vec!["x".into()], ..status };
        assert_eq!(remark(&damaged).0, Some(Reason::RecordDamaged));
    }
}
