//! Parts of the CRD schemas that the derives cannot say.

use schemars::{Schema, SchemaGenerator, json_schema};

/// `default: true` on an `Option<bool>`, so that a `false` survives our own writes.
#[allow(clippy::unnecessary_wraps, reason = "serde's default needs the field's type")]
pub(crate) fn yes() -> Option<bool> {
    Some(true)
}

/// One selector or a list of them. A structural schema cannot say "or", so this part is checked by the controller.
pub(crate) fn one_or_many(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// A Kubernetes quantity of time as the API server writes it.
pub(crate) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time", "nullable": true })
}
