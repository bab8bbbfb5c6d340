//! The steps that read the Kubernetes Secret.

use hsm_api::Reason;
use hsm_types::{Key, Payload, Presence, Value};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use zeroize::Zeroize as _;

use super::fault::Fault;
use super::round::{Round, SecretRead};
use crate::digest::marks;
use crate::index::{Event, SecretMemory, SecretMeta};
use crate::key::ObjectKey;

impl Round<'_> {
    pub(super) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    pub(super) fn secret_key(&self) -> Result<ObjectKey, Fault> {
        Ok(ObjectKey::new(self.key.namespace.clone(), self.valid()?.secret_name.clone()))
    }

    pub(super) async fn read_secret(&mut self) -> Result<(), Fault> {
        let key = self.secret_key()?;
        match self.secrets().get_opt(&key.name).await {
            Ok(Some(secret)) => self.saw_secret(secret).await,
            Ok(None) => {
                self.saw_no_secret().await;
                Ok(())
            }
            Err(error) => Err(Fault::api("reading the Secret", &error)),
        }
    }

    pub(super) async fn saw_no_secret(&mut self) {
        self.secret = Presence::Absent;
        self.secret_read = None;
        self.secret_frame = None;
        self.memory.secret = None;
        self.memory.foreign = false;
        if let Ok(key) = self.secret_key() {
            let _ = self.context.index.tell(Event::SecretGone(key)).await;
        }
    }

    /// Takes in a Secret as the API server gave it.
    pub(super) async fn saw_secret(&mut self, mut secret: Secret) -> Result<(), Fault> {
        let meta = SecretMeta::of(&secret.metadata).ok_or_else(|| {
            Fault::later(Reason::SecretDrift, "the API server gave a Secret without uid or version")
        })?;
        let payload = take_data(&mut secret)?;
        self.take_secret(meta, payload, secret).await
    }

    /// Takes in a Secret whose values are known; `frame` is the rest of it.
    pub(super) async fn take_secret(
        &mut self,
        meta: SecretMeta,
        payload: Payload,
        frame: Secret,
    ) -> Result<(), Fault> {
        let path = self.valid()?.path.clone();
        self.memory.secret = Some(SecretMemory {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            secret_type: frame.type_.clone(),
            immutable: frame.immutable == Some(true),
            macs: self.context.digest.values(&path, &payload),
            marks: self.incarnation().map(|life| (life, marks(life, &payload))),
        });
        self.memory.foreign = !meta.labelled;
        self.secret_read = Some(SecretRead { resource_version: meta.resource_version.clone(), payload });
        self.secret_frame = Some(frame);
        self.secret = Presence::Present(meta.clone());
        // The index holds what our label selects, and no other Secret of the cluster.
        if meta.labelled {
            let _ = self.context.index.tell(Event::SecretSeen(self.secret_key()?, meta)).await;
        }
        Ok(())
    }

    /// The values of the Secret at the version that the plan saw.
    pub(super) async fn secret_payload(&mut self) -> Result<&Payload, Fault> {
        let planned = self.secret.present().map(|meta| meta.resource_version.clone());
        let fits = |read: &SecretRead| Some(&read.resource_version) == planned.as_ref();
        if !self.secret_read.as_ref().is_some_and(fits) {
            self.read_secret().await?;
        }
        match &self.secret_read {
            Some(read) if Some(&read.resource_version) == planned.as_ref() => Ok(&read.payload),
            _ => Err(Fault::moved("the Secret changed before it could be read")),
        }
    }
}

/// Moves the values out of the object into memory that is wiped.
pub(super) fn take_data(secret: &mut Secret) -> Result<Payload, Fault> {
    let values: Vec<(String, Value)> =
        secret.data.take().into_iter().flatten().map(|(key, bytes)| (key, Value::new(bytes.0))).collect();
    let keys = values.into_iter().map(|(key, value)| Ok((Key::new(key)?, value)));
    keys.collect::<Result<Payload, hsm_types::InvalidKey>>().map_err(|error| {
        Fault::refused(Reason::InvalidKey, format!("the Secret cannot go to the token: {error}"))
    })
}

/// Wipes what was sent.
pub(super) fn wipe(secret: &mut Secret) {
    for (_, ByteString(bytes)) in secret.data.iter_mut().flatten() {
        bytes.zeroize();
    }
}
