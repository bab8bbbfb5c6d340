//! The digest key's Secret: made once, in the controller's namespace.

use std::time::Duration;

use hsm_api::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use zeroize::Zeroizing;

use crate::digest::DigestKey;
use crate::queue::backoff;
use crate::random;

const FIELD: &str = "key";

/// Reads the key, or makes it; waits for as long as the API server or the namespace is not there.
pub(crate) async fn load(client: Client, namespace: &str) -> DigestKey {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let mut failures = 0;
    loop {
        match once(&api).await {
            Ok(Some(key)) => return key,
            // Somebody else has made it in the same moment.
            Ok(None) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => tracing::error!(
                namespace,
                "the controller's namespace does not exist; make it, or give another one with --namespace"
            ),
            Err(kube::Error::Api(status)) => {
                tracing::error!(namespace, error = %status.message, "the digest key cannot be read or made");
            }
            Err(_) => tracing::warn!("the API server cannot be reached; it is tried again"),
        }
        let pause = backoff(failures, random::number()).min(Duration::from_secs(10));
        failures += 1;
        tokio::time::sleep(pause).await;
    }
}

async fn once(api: &Api<Secret>) -> kube::Result<Option<DigestKey>> {
    let found = api.get_opt(names::DIGEST_KEY_SECRET).await?;
    let version = found.as_ref().and_then(|s| s.metadata.resource_version.clone());
    if let Some(mut secret) = found {
        let bytes = secret.data.as_mut().and_then(|d| d.remove(FIELD)).map(|b| Zeroizing::new(b.0));
        let bytes = bytes.and_then(|b| <[u8; DigestKey::LEN]>::try_from(b.as_slice()).ok());
        if let Some(bytes) = bytes.map(Zeroizing::new) {
            return Ok(Some(DigestKey::new(&bytes)));
        }
        let labels = secret.metadata.labels.as_ref();
        if labels.and_then(|l| l.get(names::LABEL_MANAGED)).is_none_or(|by| by != names::MANAGER) {
            tracing::error!(
                name = names::DIGEST_KEY_SECRET,
                "a Secret of this name exists that the controller did not make; delete it, or give it the label managed-by"
            );
            return Ok(None);
        }
        tracing::warn!("the digest key is damaged; a new one is made, and every secret is compared anew");
    }
    let mut bytes = Zeroizing::new([0; DigestKey::LEN]);
    if !random::fill(bytes.as_mut_slice()) {
        tracing::error!("the operating system gives no randomness");
        return Ok(None);
    }
    let labels = [(names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned())];
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::DIGEST_KEY_SECRET.to_owned()),
            resource_version: version.clone(),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        data: Some([(FIELD.to_owned(), ByteString(bytes.to_vec()))].into()),
        ..Secret::default()
    };
    let params = PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
    let made = match version {
        None => api.create(&params, &secret).await,
        Some(_) => api.replace(names::DIGEST_KEY_SECRET, &params, &secret).await,
    };
    match made {
        Ok(_) => {
            tracing::info!("made the key of the digests");
            Ok(Some(DigestKey::new(&bytes)))
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}
