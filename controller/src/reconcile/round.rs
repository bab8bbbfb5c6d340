//! What one turn knows. Values live only in here, and are wiped when the turn ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_api::{HSMSecret, Reason};
use hsm_core::{
    Copy, Input, Ownership, Primary, SecretView, Step, TokenView, Verdict, Wanted, choose_primary,
};
use hsm_types::{Content, Payload, Presence, TokenId};

use super::Context;
use super::fault::Fault;
use crate::agents::AgentClient;
use crate::base;
use crate::index::{Memory, Observation, SecretMeta, TokenSeen};
use crate::key::ObjectKey;

/// Which way data went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the token to the Secret.
    ToSecret,
    /// From the Secret to the token.
    ToToken,
}

impl Direction {
    /// The metrics' word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ToSecret => "to_secret",
            Self::ToToken => "to_token",
        }
    }
}

/// Data was moved, and why.
pub(super) struct Moved {
    /// Which way.
    pub direction: Direction,
    /// The reason, for the Event.
    pub reason: Reason,
    /// The text, for the Event.
    pub message: String,
}

/// The Secret with its data, as it was read in this turn.
pub(super) struct SecretRead {
    /// At which resource version.
    pub resource_version: String,
    /// The values.
    pub payload: Payload,
}

/// See the module.
pub(super) struct Round<'a> {
    pub(super) context: &'a Context,
    pub(super) key: ObjectKey,
    pub(super) request_id: String,
    pub(super) object: Arc<HSMSecret>,
    pub(super) wanted: Result<Wanted, hsm_core::Invalid>,
    holder: Option<ObjectKey>,
    pub(super) secret: Presence<SecretMeta>,
    pub(super) secret_read: Option<SecretRead>,
    /// The metadata that a replace has to keep, without values.
    pub(super) secret_frame: Option<k8s_openapi::api::core::v1::Secret>,
    pub(super) token: Presence<TokenView>,
    pub(super) unknown_reason: Reason,
    pub(super) record: Option<Content>,
    clients: BTreeMap<String, AgentClient>,
    pub(super) memory: Memory,
    shared: bool,
    old_secret_gone: bool,
    pub(super) moved: Option<Moved>,
    /// The HSMSecret may go: there is no status to write.
    pub(super) finished: bool,
}

impl<'a> Round<'a> {
    pub(super) fn new(context: &'a Context, key: ObjectKey, request_id: String, seen: Observation) -> Self {
        let mut round = Self {
            context,
            key,
            request_id,
            object: Arc::clone(&seen.object),
            wanted: seen.wanted.clone(),
            holder: None,
            secret: Presence::Absent,
            secret_read: None,
            secret_frame: None,
            token: Presence::Absent,
            unknown_reason: Reason::AgentUnreachable,
            record: None,
            clients: BTreeMap::new(),
            memory: seen.memory.clone(),
            shared: false,
            old_secret_gone: false,
            moved: None,
            finished: false,
        };
        round.take(seen);
        round
    }

    fn take(&mut self, seen: Observation) {
        self.object = seen.object;
        self.wanted = seen.wanted;
        self.holder = seen.holder;
        self.secret = seen.secret;
        self.clients = seen.clients;
        self.shared = seen.shared;
        let previous = self.object.status.as_ref().and_then(|s| s.primary.as_ref()?.token.parse().ok());
        if let Ok(wanted) = &self.wanted {
            let (token, reason) = primary(wanted, &seen.tokens, &seen.unheard, previous);
            self.token = token;
            self.unknown_reason = reason;
        }
    }

    /// Forgets what may have moved, and looks at the index again. What the index has not heard yet is asked for.
    pub(super) async fn look_again(&mut self) -> Result<(), Fault> {
        self.secret_read = None;
        self.secret_frame = None;
        self.record = None;
        // The feed of the token may be a moment behind its refusal.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let seen = self.context.index.observe(&self.key).await;
        let Ok(Some(seen)) = seen else {
            self.finished = true;
            return Ok(());
        };
        self.take(seen);
        self.secret = Presence::unknown("it has to be looked for");
        self.valid().map(drop)
    }

    /// Whether there is something that can be worked on at all.
    pub(super) fn valid(&self) -> Result<&Wanted, Fault> {
        let wanted = self
            .wanted
            .as_ref()
            .map_err(|invalid| Fault::refused(invalid.reason, invalid.message.clone()))?;
        match &self.holder {
            Some(holder) if !wanted.deleting => Err(Fault::refused(
                Reason::InvalidSpec,
                format!(
                    "the HSMSecret {} is older and has the Secret {}; choose another secretName",
                    holder.name, wanted.secret_name
                ),
            )),
            _ => Ok(wanted),
        }
    }

    /// Everything the core looks at.
    pub(super) fn input(&self) -> Result<Input, Fault> {
        let wanted = self.valid()?.clone();
        let status = self.object.status.as_ref();
        let was = status.and_then(|s| s.secret_ref.as_ref()?.name.clone());
        Ok(Input {
            old_secret: was.filter(|name| *name != wanted.secret_name && !self.old_secret_gone),
            secret: self.secret.clone().map(|meta| self.view(&meta)),
            token: self.token.clone().map(|mut view| {
                if let Presence::Present(copy) = &mut view.copy {
                    copy.values = self.record_values(view.token, copy);
                }
                view
            }),
            unknown_reason: self.unknown_reason,
            status_base: status
                .and_then(|s| s.base.as_deref())
                .and_then(|text| base::decode(text, &self.context.digest)),
            was_synced: status.is_some_and(|s| s.last_sync_time.is_some()),
            shared: self.shared,
            seen_equal: self.memory.seen_equal.clone(),
            wanted,
        })
    }

    fn view(&self, meta: &SecretMeta) -> SecretView {
        let known = self
            .memory
            .secret
            .as_ref()
            .filter(|m| m.uid == meta.uid && m.resource_version == meta.resource_version);
        SecretView {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            ownership: self.ownership(meta),
            secret_type: known.and_then(|m| m.secret_type.clone()),
            immutable: known.is_some_and(|m| m.immutable),
            values: known.and_then(|m| m.values(self.incarnation())),
            base: meta.base.as_deref().and_then(|text| base::decode(text, &self.context.digest)),
        }
    }

    pub(super) fn ownership(&self, meta: &SecretMeta) -> Ownership {
        match &meta.owner {
            Some((uid, _)) if meta.labelled && Some(uid) == self.object.metadata.uid.as_ref() => {
                Ownership::Ours
            }
            Some((_, name)) if meta.labelled => Ownership::Other(name.clone()),
            _ => Ownership::Foreign,
        }
    }

    /// The life of the token's only copy.
    pub(super) fn incarnation(&self) -> Option<hsm_types::Incarnation> {
        let copy = self.token.present()?.copy.present()?;
        copy.heads.first().map(|head| head.version.incarnation)
    }

    fn record_values(&self, token: TokenId, copy: &Copy) -> Option<hsm_core::Values> {
        let [head] = copy.heads.as_slice() else { return None };
        let known = self.memory.record.as_ref().filter(|m| m.is(token, head))?;
        Some(known.values.clone())
    }

    /// The primary's agent.
    pub(super) fn agent(&self) -> Result<(TokenView, AgentClient), Fault> {
        let view = self.token.present().cloned();
        let view =
            view.ok_or_else(|| Fault::later(self.unknown_reason, "no token is known to hold the record"))?;
        match self.clients.get(&view.node) {
            Some(client) => Ok((view, client.clone())),
            None => Err(Fault::later(
                Reason::AgentUnreachable,
                format!("the agent {} does not answer", view.node),
            )),
        }
    }

    pub(super) fn moved(&mut self, direction: Direction, why: &Verdict) {
        // What came first says why; what followed only carried it on.
        self.moved.get_or_insert_with(|| Moved {
            direction,
            reason: why.reason,
            message: why.message.clone(),
        });
    }

    /// Does one step.
    pub(super) async fn execute(&mut self, step: &Step, why: &Verdict) -> Result<(), Fault> {
        tracing::debug!(step = step_name(step), why = why.message, "a step");
        match step {
            Step::AddFinalizer => self.set_finalizer(true).await,
            Step::RemoveFinalizer => self.set_finalizer(false).await,
            Step::ClearResolve => self.clear_resolve().await,
            Step::ReadSecret => self.read_secret().await,
            Step::ReadRecord => self.read_record().await,
            Step::CreateSecret => self.create_secret(why).await,
            Step::UpdateSecret => self.update_secret(why).await,
            Step::RecreateSecret => self.recreate_secret(why).await,
            Step::DeleteSecret => self.delete_secret(why).await,
            Step::DeleteOldSecret(name) => {
                self.delete_old_secret(name).await?;
                self.old_secret_gone = true;
                Ok(())
            }
            Step::PutRecord { expect, source, parents } => {
                self.put_record(expect.as_ref(), source, parents, why).await
            }
            Step::DeleteRecord { expect } => self.delete_record(expect).await,
        }
    }
}

fn step_name(step: &Step) -> &'static str {
    match step {
        Step::AddFinalizer => "AddFinalizer",
        Step::RemoveFinalizer => "RemoveFinalizer",
        Step::ReadSecret => "ReadSecret",
        Step::ReadRecord => "ReadRecord",
        Step::CreateSecret => "CreateSecret",
        Step::UpdateSecret => "UpdateSecret",
        Step::RecreateSecret => "RecreateSecret",
        Step::DeleteSecret => "DeleteSecret",
        Step::DeleteOldSecret(_) => "DeleteOldSecret",
        Step::PutRecord { .. } => "PutRecord",
        Step::DeleteRecord { .. } => "DeleteRecord",
        Step::ClearResolve => "ClearResolve",
    }
}

/// The core's choice, as the core's input.
fn primary(
    wanted: &Wanted,
    tokens: &[TokenSeen],
    unheard: &[String],
    previous: Option<TokenId>,
) -> (Presence<TokenView>, Reason) {
    let views: Vec<TokenView> = tokens.iter().map(|t| t.view.clone()).collect();
    let reason = tokens
        .iter()
        .filter(|t| t.view.copy.is_unknown())
        .max_by_key(|t| Some(t.view.token) == previous)
        .map(|t| t.reason);
    match choose_primary(&wanted.path, &views, previous) {
        Primary::Token(i) => {
            let holds = views[i].copy.present().is_some_and(|c| !c.heads.is_empty());
            match unheard.first().filter(|_| !holds && Some(views[i].token) != previous) {
                // An agent that was never heard may have the token that holds it.
                Some(agent) => (
                    Presence::unknown(format!(
                        "the agent {agent} has not answered yet, and may hold the record"
                    )),
                    Reason::AgentUnreachable,
                ),
                None => (Presence::Present(views[i].clone()), tokens[i].reason),
            }
        }
        Primary::Unknown(why) => {
            let usual = if unheard.is_empty() { Reason::TokenAbsent } else { Reason::AgentUnreachable };
            (Presence::unknown(why), reason.unwrap_or(usual))
        }
        Primary::None => match unheard.first() {
            Some(agent) => (
                Presence::unknown(format!("the agent {agent} has not answered yet")),
                Reason::AgentUnreachable,
            ),
            None => (Presence::Absent, Reason::NoEligibleToken),
        },
        Primary::Diverged(places) => {
            let copies = || places.iter().filter_map(|i| views[*i].copy.present());
            let copy = Copy {
                heads: copies().flat_map(|c| c.heads.clone()).collect(),
                tombstones: copies().flat_map(|c| c.tombstones.clone()).collect(),
                values: None,
            };
            match places.first() {
                Some(first) => {
                    let view = TokenView { copy: Presence::Present(copy), ..views[*first].clone() };
                    (Presence::Present(view), Reason::ConflictPending)
                }
                None => (Presence::Absent, Reason::NoEligibleToken),
            }
        }
    }
}
