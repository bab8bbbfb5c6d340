//! Views to messages.

use hsm_proto::agent as wire;
use hsm_types::RecordPath;

use crate::actor::{Entry, State, View};
use crate::reason::Reason;

/// A token's status on the wire.
pub(super) fn status_message(view: &View) -> wire::TokenStatus {
    let status = &view.status;
    let info = status.info.clone().unwrap_or_default();
    wire::TokenStatus {
        token_id: status.token_id.map(|id| id.to_string()).unwrap_or_default(),
        state: state(status.state) as i32,
        reason: status.reason.map(Reason::as_str).unwrap_or_default().to_owned(),
        message: status.message.clone(),
        usb_serial: status.usb_serial.as_ref().map(|s| s.as_str().to_owned()).unwrap_or_default(),
        device_path: String::new(),
        label: info.label,
        model: info.model,
        manufacturer: info.manufacturer,
        firmware: info.firmware,
        software: info.software,
        objects: status.objects,
        capacity: status.capacity,
        records: view
            .records
            .as_ref()
            .map_or(0, |r| r.entries.values().filter(|e| !e.heads.is_empty() && !e.unlisted).count() as u64),
        session_epoch: status.epoch,
        store_fingerprint: status.fingerprint.clone(),
        pin_tries_low: info.pin.count_low || info.pin.final_try,
        damaged: status.damaged.clone(),
        bytes_replaced: status.bytes_replaced,
        pending: status.pending,
        ghosts: status.ghosts,
        history: status.history,
    }
}

const fn state(state: State) -> wire::TokenState {
    match state {
        State::Ready => wire::TokenState::Ready,
        State::Absent => wire::TokenState::Absent,
        State::Unknown => wire::TokenState::Unknown,
        State::Locked => wire::TokenState::Locked,
        State::Blank => wire::TokenState::Blank,
        State::Unreadable => wire::TokenState::Unreadable,
        State::NotAdmitted => wire::TokenState::NotAdmitted,
    }
}

/// What a token holds of a path on the wire.
pub(super) fn record_state(path: &RecordPath, entry: &Entry) -> wire::RecordState {
    wire::RecordState {
        path: path.as_str().to_owned(),
        heads: entry.heads.iter().map(|head| (&head.revision).into()).collect(),
        tombstones: entry.tombstones.iter().map(Into::into).collect(),
        unknown: entry.unknown.is_some(),
        unknown_reason: entry.unknown.clone().unwrap_or_default(),
    }
}
