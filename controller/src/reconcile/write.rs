//! The HSMSecret's own writes: finalizer, annotation, status; and how a turn ends.

use std::sync::Arc;
use std::time::Duration;

use hsm_api::{HSMSecret, names};
use hsm_core::{Base, Plan, ReadyStatus, SyncState, Verdict};
use hsm_types::Presence;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::fault::{Fault, FaultClass};
use super::round::Round;
use super::status::{Facts, Say, next_status};
use super::{Outcome, event};
use crate::base;
use crate::digest::macs_of;
use crate::index::Event;

/// A Secret that is not ours is in no watch: it is looked for this often.
const FOREIGN_AGAIN: Duration = Duration::from_secs(30);

impl Round<'_> {
    fn objects(&self) -> Api<HSMSecret> {
        Api::namespaced(self.context.client.clone(), &self.key.namespace)
    }

    async fn patched(&mut self, object: HSMSecret) {
        self.object = Arc::new(object.clone());
        if let Ok(wanted) = &mut self.wanted {
            let finalizers = object.metadata.finalizers.as_deref().unwrap_or_default();
            wanted.has_finalizer = finalizers.iter().any(|f| f == names::FINALIZER);
        }
        let _ = self.context.index.tell(Event::ObjectPatched(Box::new(object))).await;
    }

    async fn patch_metadata(&mut self, doing: &str, mut metadata: Value) -> Result<(), Fault> {
        metadata["uid"] = json!(self.object.metadata.uid);
        metadata["resourceVersion"] = json!(self.object.metadata.resource_version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let params = PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
        let answer = self.objects().patch(&self.key.name, &params, &patch).await;
        match answer {
            Ok(object) => {
                self.patched(object).await;
                Ok(())
            }
            Err(error) => Err(Fault::api(doing, &error)),
        }
    }

    pub(super) async fn set_finalizer(&mut self, on: bool) -> Result<(), Fault> {
        let mut finalizers = self.object.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|f| f != names::FINALIZER);
        if on {
            finalizers.push(names::FINALIZER.to_owned());
        }
        let done = self.patch_metadata("changing the finalizers", json!({ "finalizers": finalizers })).await;
        if !on && done.is_ok() {
            self.finished = true;
        }
        done
    }

    /// An HSMSecret that is deleted while its spec is refused goes: it has no record that it could delete.
    pub(super) async fn let_go(&mut self) -> Result<Option<Plan>, Fault> {
        let going = self.object.metadata.deletion_timestamp.is_some();
        let holds = self.object.metadata.finalizers.iter().flatten().any(|f| f == names::FINALIZER);
        let Err(invalid) = &self.wanted else { return Ok(None) };
        if !going || !holds {
            return Ok(None);
        }
        let message = format!("nothing was deleted from the token: {}", invalid.message);
        tracing::warn!(reason = invalid.reason.as_str(), "{message}");
        let verdict = Verdict {
            state: SyncState::Pending,
            ready: ReadyStatus::False,
            reason: invalid.reason,
            message,
            conflict: None,
        };
        self.set_finalizer(false).await?;
        Ok(Some(Plan { steps: Vec::new(), verdict, equal_at: None }))
    }

    pub(super) async fn clear_resolve(&mut self) -> Result<(), Fault> {
        let annotations = json!({ "annotations": { names::ANNOTATION_RESOLVE: null } });
        self.patch_metadata("clearing the annotation", annotations).await?;
        if let Ok(wanted) = &mut self.wanted {
            wanted.resolve = None;
        }
        Ok(())
    }

    /// Ends the turn: remembers, writes the status and an Event if they say something new.
    pub(super) async fn conclude(&mut self, result: &Result<Plan, Fault>) -> Outcome {
        if let Ok(Plan { equal_at: Some(version), .. }) = result
            && let Presence::Present(secret) = &self.secret
        {
            self.memory.seen_equal = Some((secret.resource_version.clone(), version.clone()));
        }
        let outcome = self.outcome(result);
        let going = self.object.metadata.deletion_timestamp.is_some();
        let holds = self.object.metadata.finalizers.iter().flatten().any(|f| f == names::FINALIZER);
        let written = if self.finished || (going && !holds) { Ok(()) } else { self.say(result).await };
        if let Some(uid) = self.object.metadata.uid.clone() {
            let memory = Box::new(self.memory.clone());
            let _ = self.context.index.tell(Event::Remember(self.key.clone(), uid, memory)).await;
        }
        match written {
            Ok(()) if self.finished => Outcome::Gone,
            Ok(()) => outcome,
            Err(fault) => {
                tracing::warn!(error = %fault.message, "the status could not be written; it is tried again");
                Outcome::Retry
            }
        }
    }

    fn outcome(&self, result: &Result<Plan, Fault>) -> Outcome {
        let seconds = self.object.spec.sync_interval.filter(|s| *s > 0).unwrap_or(300);
        let resync = Duration::from_secs(u64::try_from(seconds).unwrap_or(300)).max(Duration::from_secs(10));
        match result {
            Err(fault) if fault.class == FaultClass::Refused => Outcome::Settled { resync: Some(resync) },
            Err(_) => Outcome::Retry,
            Ok(_) if self.memory.foreign => Outcome::Settled { resync: Some(FOREIGN_AGAIN) },
            Ok(_) => Outcome::Settled { resync: Some(resync) },
        }
    }

    async fn say(&mut self, result: &Result<Plan, Fault>) -> Result<(), Fault> {
        let was_synced = self.object.status.as_ref().is_some_and(|s| s.last_sync_time.is_some());
        let say = match result {
            Ok(plan) => Say::of(&plan.verdict),
            // A race that was lost, or an API server that does not serve, says nothing about the secret.
            Err(fault) if matches!(fault.class, FaultClass::Moved | FaultClass::Api) => return Ok(()),
            Err(fault) => Say::fault(fault, was_synced),
        };
        // Times in the API have whole seconds; a finer one would differ from what comes back.
        let now = Timestamp::now();
        let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        let in_sync = say.state == SyncState::InSync;
        let equal = result.as_ref().ok().and_then(|p| p.equal_at.as_ref());
        let digest = &self.context.digest;
        let known = self.known_values();
        let facts = Facts {
            object: &self.object,
            wanted: self.wanted.as_ref().ok(),
            in_sync,
            moved: self.moved.is_some(),
            worked_off: result.is_ok(),
            primary: self.token.present().filter(|t| t.copy.present().is_some_and(|c| !c.heads.is_empty())),
            hsm_checksum: known.0.map(|macs| digest.checksum(&macs)),
            secret_checksum: known.1.map(|macs| digest.checksum(&macs)),
            base: equal.zip(self.memory.secret.as_ref()).map(|(version, secret)| {
                let base = Base { version: version.clone(), keys: secret.macs.clone() };
                base::encode(&base, digest)
            }),
            secret_ours: self.secret.present().map(|meta| self.ownership(meta) == hsm_core::Ownership::Ours),
            secret_absent: self.secret.is_absent(),
            say: &say,
            now: &now,
        };
        let old = self.object.status.clone().unwrap_or_default();
        let new = next_status(&old, &facts);
        let conflict = say.conflict && !super::status::is_true(&old, names::CONFLICT);
        if conflict {
            self.context.metrics.conflict(self.policy());
        }
        if new != old {
            let patch = json!({
                "metadata": { "uid": self.object.metadata.uid },
                "status": super::status::patch(&old, &new),
            });
            let params =
                PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
            match self.objects().patch_status(&self.key.name, &params, &Patch::Merge(patch)).await {
                Ok(object) => {
                    self.context.metrics.status_written();
                    self.patched(object).await;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => return Err(Fault::api("writing the status", &error)),
            }
        }
        event::tell(self, &old, &new, &say).await;
        Ok(())
    }

    /// The keyed digests of both sides, where they are known at what was seen last.
    fn known_values(&self) -> (Option<crate::digest::Macs>, Option<crate::digest::Macs>) {
        let secret = self.secret.present().and_then(|meta| {
            let memory = self.memory.secret.as_ref()?;
            (memory.resource_version == meta.resource_version).then(|| memory.macs.clone())
        });
        let token = self.head().ok().and_then(|head| {
            let view = self.token.present()?;
            let memory = self.memory.record.as_ref().filter(|m| m.is(view.token, &head));
            memory.map(|m| macs_of(&m.values))
        });
        (token, secret)
    }

    fn policy(&self) -> &'static str {
        match self.object.spec.conflict_policy {
            hsm_api::ConflictPolicy::Manual => "Manual",
            hsm_api::ConflictPolicy::PreferToken => "PreferToken",
            hsm_api::ConflictPolicy::PreferSecret => "PreferSecret",
        }
    }
}
