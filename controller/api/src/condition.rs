//! Building and merging `metav1.Condition`s: transition times move only when a status changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::Reason;

/// The three words of a condition's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be found out.
    Unknown,
}

impl ConditionStatus {
    /// The word as it stands in the object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition as it would be if it had changed at `now`.
pub fn condition(
    type_: &str,
    status: ConditionStatus,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: now.clone(),
    }
}

/// Puts `new` into the list. The transition time of an existing condition is kept while its status is the same.
pub fn set_condition(list: &mut Vec<Condition>, mut new: Condition) {
    match list.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn transition_times_move_only_on_transitions() {
        let ready = |status, reason, now: i64| condition("Ready", status, reason, "m", Some(1), &at(now));
        let mut list = Vec::new();
        set_condition(&mut list, ready(ConditionStatus::False, Reason::PathNotFound, 1));
        set_condition(&mut list, ready(ConditionStatus::False, Reason::TokenAbsent, 2));
        assert_eq!((list.len(), &list[0].last_transition_time), (1, &at(1)));
        assert_eq!(list[0].reason, "TokenAbsent");
        set_condition(&mut list, ready(ConditionStatus::True, Reason::SecretSynced, 3));
        assert_eq!(list[0].last_transition_time, at(3));
    }
}
