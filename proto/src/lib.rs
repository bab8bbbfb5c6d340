//! The wire contracts: our agent's API and the kubelet's device-plugin API.
//!
//! Generated code lives in [`agent`] and [`deviceplugin`]; the conversions between it and the types that the rest of
//! the code uses are in [`convert`], and nowhere else.

pub mod convert;

/// The agent's API (`proto/agent/v1/agent.proto`).
#[allow(missing_docs, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod agent {
    tonic::include_proto!("hsm.agent.v1");
}

/// The kubelet's device-plugin API, v1beta1 (`proto/kubelet/deviceplugin/v1beta1/api.proto`).
#[allow(missing_docs, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// The gRPC metadata key that carries the request id from the controller to the worker's log lines.
pub const REQUEST_ID: &str = "x-request-id";
