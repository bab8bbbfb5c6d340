//! The steps that write the Kubernetes Secret: always under the uid and resource version that were read.

use std::collections::BTreeMap;

use hsm_api::{Reason, names};
use hsm_core::{Base, Ownership, SyncPolicy, ValueDigests, Verdict, unedited};
use hsm_types::{Payload, Presence};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use kube::api::{DeleteParams, PostParams, Preconditions};

use super::fault::Fault;
use super::round::{Direction, Round};
use super::secret::{take_data, wipe};
use crate::base;
use crate::digest::macs_of;
use crate::index::{Event, SecretMeta};
use crate::key::ObjectKey;

/// What the API server takes (core/v1, MaxSecretSize).
const MAX_SECRET: usize = 1024 * 1024;

impl Round<'_> {
    pub(super) async fn create_secret(&mut self, why: &Verdict) -> Result<(), Fault> {
        self.create_like(why, Secret::default()).await
    }

    /// Deletes the Secret and makes it anew. What would be refused then is refused before anything is deleted.
    pub(super) async fn recreate_secret(&mut self, why: &Verdict) -> Result<(), Fault> {
        self.read_record_if_needed().await?;
        // What others put there stays, so it has to be read, at the version that was planned for.
        self.secret_payload().await?;
        let frame = self.secret_frame.clone().ok_or_else(|| Fault::moved("the Secret is gone"))?;
        let like = Secret {
            metadata: ObjectMeta {
                labels: frame.metadata.labels,
                annotations: frame.metadata.annotations,
                ..ObjectMeta::default()
            },
            immutable: frame.immutable,
            ..Secret::default()
        };
        let (mut secret, _) = self.new_secret(like.clone())?;
        let params = PostParams { dry_run: true, ..post() };
        let answer = self.secrets().create(&params, &secret).await;
        wipe(&mut secret);
        match answer {
            Ok(mut made) => wipe(&mut made),
            // It is valid, and still there.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(Fault::api("making the Secret anew", &error)),
        }
        self.delete_secret(why).await?;
        self.create_like(why, like).await
    }

    /// The whole Secret from the record, and a second copy of its values.
    fn new_secret(&self, like: Secret) -> Result<(Secret, Payload), Fault> {
        let mut secret = Secret { type_: Some(self.valid()?.secret_type.clone()), ..like };
        secret.metadata.name = Some(self.valid()?.secret_name.clone());
        secret.metadata.namespace = Some(self.key.namespace.clone());
        self.mark_ours(&mut secret)?;
        let payload = self.fill(&mut secret)?;
        Ok((secret, payload))
    }

    async fn create_like(&mut self, why: &Verdict, like: Secret) -> Result<(), Fault> {
        self.read_record_if_needed().await?;
        let (mut secret, payload) = self.new_secret(like)?;
        let params = post();
        let answer = self.secrets().create(&params, &secret).await;
        wipe(&mut secret);
        match answer {
            Ok(made) => {
                self.moved(Direction::ToSecret, why);
                self.wrote_secret(made, payload).await
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Somebody has made it, without our label: from now on it is looked for.
                self.memory.foreign = true;
                Err(Fault::moved("a Secret of this name is there already"))
            }
            Err(error) => Err(Fault::api("making the Secret", &error)),
        }
    }

    pub(super) async fn update_secret(&mut self, why: &Verdict) -> Result<(), Fault> {
        self.read_record_if_needed().await?;
        // The rest of the object has to be kept, so it has to be read, at the version that was planned for.
        self.secret_payload().await?;
        let frame = self.secret_frame.clone();
        let mut secret = frame.ok_or_else(|| Fault::moved("the Secret is gone"))?;
        self.mark_ours(&mut secret)?;
        let payload = self.fill(&mut secret)?;
        let name = self.valid()?.secret_name.clone();
        let params = post();
        let answer = self.secrets().replace(&name, &params, &secret).await;
        wipe(&mut secret);
        let made = answer.map_err(|error| Fault::api("updating the Secret", &error))?;
        self.moved(Direction::ToSecret, why);
        self.wrote_secret(made, payload).await
    }

    /// Labels, owner and base. What others put there stays.
    fn mark_ours(&self, secret: &mut Secret) -> Result<(), Fault> {
        let labels = secret.metadata.labels.get_or_insert_default();
        labels.insert(names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned());
        labels.insert(names::LABEL_MANAGED.to_owned(), names::MANAGER.to_owned());
        // A label's value has at most 63 characters; an object's name may have more.
        let label: String = self.key.name.chars().take(63).collect();
        let label = label.trim_end_matches(['-', '.', '_']).to_owned();
        labels.insert(names::LABEL_SECRET.to_owned(), label);
        let uid = self.object.metadata.uid.clone().unwrap_or_default();
        let owners = secret.metadata.owner_references.get_or_insert_default();
        if !owners.iter().any(|o| o.uid == uid) {
            owners.push(OwnerReference {
                api_version: hsm_api::HSMSecret::api_version(&()).into_owned(),
                kind: hsm_api::HSMSecret::kind(&()).into_owned(),
                name: self.key.name.clone(),
                uid,
                controller: Some(!owners.iter().any(|o| o.controller == Some(true))),
                block_owner_deletion: None,
            });
        }
        let known = self.memory.record.as_ref();
        let head = self.head()?;
        let known = known.ok_or_else(|| Fault::moved("the record was not read"))?;
        let base = Base { version: head.version.clone(), keys: macs_of(&known.values) };
        secret
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(names::ANNOTATION_BASE.to_owned(), base::encode(&base, &self.context.digest));
        Ok(())
    }

    /// Puts the record's values into the object, and gives a second copy of them.
    fn fill(&self, secret: &mut Secret) -> Result<Payload, Fault> {
        let content = self.record.as_ref().ok_or_else(|| Fault::moved("the record was not read"))?;
        if content.data.size() > MAX_SECRET {
            let message = format!(
                "the record has {} bytes, and a Secret at most {MAX_SECRET}; split it over several HSMSecrets",
                content.data.size()
            );
            return Err(Fault::refused(Reason::ValueTooLarge, message));
        }
        let data: BTreeMap<String, ByteString> = content
            .data
            .iter()
            .map(|(k, v)| (k.as_str().to_owned(), ByteString(v.expose().to_vec())))
            .collect();
        secret.data = Some(data);
        Ok(content.data.duplicate())
    }

    /// Takes in the answer to a write: its data is what was written, so that it is not looked at.
    async fn wrote_secret(&mut self, mut made: Secret, payload: Payload) -> Result<(), Fault> {
        wipe(&mut made);
        made.data = None;
        let meta = SecretMeta::of(&made.metadata).ok_or_else(|| {
            Fault::later(Reason::SecretDrift, "the API server gave a Secret without uid or version")
        })?;
        self.take_secret(meta, payload, made).await
    }

    pub(super) async fn delete_secret(&mut self, why: &Verdict) -> Result<(), Fault> {
        let Presence::Present(meta) = self.secret.clone() else {
            return Err(Fault::moved("the Secret is not known"));
        };
        let name = self.valid()?.secret_name.clone();
        self.delete_under(&name, &meta).await?;
        self.moved(Direction::ToSecret, why);
        self.saw_no_secret().await;
        Ok(())
    }

    pub(super) async fn delete_old_secret(&mut self, name: &str) -> Result<(), Fault> {
        let found = self.secrets().get_opt(name).await;
        let found = found.map_err(|error| Fault::api("reading the old Secret", &error))?;
        let Some(mut old) = found else { return Ok(()) };
        let meta = SecretMeta::of(&old.metadata).filter(|meta| self.ownership(meta) == Ownership::Ours);
        let Some(meta) = meta else {
            wipe(&mut old);
            return Ok(());
        };
        let payload = take_data(&mut old)?;
        if self.edited_since(&meta, &payload)? {
            return Err(Fault::refused(
                Reason::ConflictPending,
                format!(
                    "the Secret {name}, which had this name before, was edited and the edit is on no token; take it over into the Secret {} and delete {name}",
                    self.valid()?.secret_name
                ),
            ));
        }
        self.delete_under(name, &meta).await?;
        let key = ObjectKey::new(self.key.namespace.clone(), name);
        let _ = self.context.index.tell(Event::SecretGone(key)).await;
        Ok(())
    }

    /// Whether an earlier Secret of ours has an edit that never reached the token.
    fn edited_since(&self, meta: &SecretMeta, payload: &Payload) -> Result<bool, Fault> {
        let wanted = self.valid()?;
        if wanted.sync_policy == SyncPolicy::FromToken {
            return Ok(false);
        }
        let digest = &self.context.digest;
        let macs = digest.values(&wanted.path, payload);
        let on_token = self.memory.record.as_ref().is_some_and(|record| macs_of(&record.values) == macs);
        let values = macs.into_iter().map(|(key, mac)| (key, ValueDigests { mac, mark: None })).collect();
        let decode = |text: Option<&str>| text.and_then(|text| base::decode(text, digest));
        let status = self.object.status.as_ref().and_then(|s| s.base.as_deref());
        let (annotation, status) = (decode(meta.base.as_deref()), decode(status));
        Ok(!on_token && !unedited(&values, annotation.as_ref(), status.as_ref()))
    }

    async fn delete_under(&self, name: &str, meta: &SecretMeta) -> Result<(), Fault> {
        let preconditions = Preconditions {
            resource_version: Some(meta.resource_version.clone()),
            uid: Some(meta.uid.clone()),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.secrets().delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(Fault::api("deleting the Secret", &error)),
        }
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() }
}
