//! The call to the kubelet's Registration service.

use std::path::Path;
use std::time::Duration;

use hsm_proto::deviceplugin::registration_client::RegistrationClient;
use hsm_proto::deviceplugin::{DevicePluginOptions, RegisterRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use crate::ResourceName;

/// The version of the protocol, as the kubelet compares it.
const VERSION: &str = "v1beta1";

/// Why the kubelet did not take us; trying again later is right for all of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("the kubelet's socket does not answer: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the kubelet refused: {0}")]
    Refused(Box<tonic::Status>),
    #[error("the kubelet did not answer in {0:?}")]
    Late(Duration),
}

/// What the kubelet is told of our calls: none before a container starts, and a preference when it chooses.
pub(crate) fn options() -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true }
}

/// Registers the socket `endpoint`, a file name beside the kubelet's own. Meanwhile the kubelet calls us.
pub(crate) async fn register(
    kubelet: &Path,
    endpoint: String,
    resource: &ResourceName,
    limit: Duration,
) -> Result<(), RegisterError> {
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint,
        resource_name: resource.as_str().to_owned(),
        options: Some(options()),
    };
    let call = async {
        let path = kubelet.to_owned();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The host is only the :authority; the connector knows the way.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await?;
        let answer = RegistrationClient::new(channel).register(request).await;
        answer.map(drop).map_err(|status| RegisterError::Refused(Box::new(status)))
    };
    tokio::time::timeout(limit, call).await.unwrap_or(Err(RegisterError::Late(limit)))
}
