//! The task that owns the index: events come in over a bounded queue, wakes go out to the dispatcher.

use std::collections::HashSet;

use hsm_api::{HSMDevice, HSMSecret, Reason};
use hsm_types::{RecordPath, Revision, TokenId};
use tokio::sync::{mpsc, oneshot, watch};

use super::{FeedEvent, Index, Instance, Memory, Observation, SecretMeta, Wake};
use crate::agents::AgentClient;
use crate::key::ObjectKey;

/// One event of a watch, as far as it concerns one namespace or all.
#[derive(Debug)]
pub enum Scoped<T> {
    /// Made or changed, or part of a list.
    Applied(T),
    /// Deleted.
    Deleted(T),
    /// A list begins.
    Begin(Option<String>),
    /// A list is whole.
    Listed(Option<String>),
}

/// What the index hears.
pub enum Event {
    /// About HSMSecrets.
    Object(Box<Scoped<HSMSecret>>),
    /// A reconcile changed an HSMSecret.
    ObjectPatched(Box<HSMSecret>),
    /// About Secrets with our label.
    Secret(Scoped<(ObjectKey, SecretMeta)>),
    /// About HSMDevices of the controller's namespace.
    Device(Box<Scoped<HSMDevice>>),
    /// An agent is to be counted.
    AgentAdded(String),
    /// An agent is not configured any more.
    AgentRemoved(String),
    /// An agent answers.
    AgentConnected(String, AgentClient),
    /// An agent does not answer.
    AgentLost(String, String),
    /// Whether an agent has a token that it cannot name.
    Nameless(String, bool),
    /// An agent's tokens.
    Tokens(String, Vec<(TokenId, Option<(Reason, String)>)>),
    /// A record feed.
    Fed(String, TokenId, FeedEvent),
    /// A reconcile read or wrote a Secret.
    SecretSeen(ObjectKey, SecretMeta),
    /// A reconcile found no Secret.
    SecretGone(ObjectKey),
    /// A reconcile wrote a record.
    RecordWritten(String, TokenId, RecordPath, Box<Revision>),
    /// What a reconcile learned; with the object's uid.
    Remember(ObjectKey, String, Box<Memory>),
    /// A reconcile wants to look.
    Observe(ObjectKey, oneshot::Sender<Option<Observation>>),
    /// The states of all HSMSecrets, for the metrics.
    States(oneshot::Sender<Vec<Option<hsm_api::SyncStatus>>>),
}

/// What has been listed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// How many scopes of HSMSecrets.
    pub objects: usize,
    /// How many scopes of Secrets.
    pub secrets: usize,
    /// HSMDevices.
    pub devices: bool,
    /// Every agent said what it can say.
    pub agents: bool,
}

/// Talks to the index's task.
#[derive(Clone)]
pub struct IndexHandle {
    events: mpsc::Sender<Event>,
}

/// The index's task is gone: the process is ending.
#[derive(Debug, thiserror::Error)]
#[error("the index has ended")]
pub struct IndexEnded;

impl IndexHandle {
    /// Tells something.
    pub async fn tell(&self, event: Event) -> Result<(), IndexEnded> {
        self.events.send(event).await.map_err(|_| IndexEnded)
    }

    /// Looks at one HSMSecret.
    pub async fn observe(&self, key: &ObjectKey) -> Result<Option<Observation>, IndexEnded> {
        let (reply, answer) = oneshot::channel();
        self.tell(Event::Observe(key.clone(), reply)).await?;
        answer.await.map_err(|_| IndexEnded)
    }

    /// The states of all HSMSecrets.
    pub async fn states(&self) -> Result<Vec<Option<hsm_api::SyncStatus>>, IndexEnded> {
        let (reply, answer) = oneshot::channel();
        self.tell(Event::States(reply)).await?;
        answer.await.map_err(|_| IndexEnded)
    }
}

/// Makes the index. The future runs until every handle is gone.
pub fn spawn(
    instance: Instance,
    wakes: mpsc::Sender<Wake>,
) -> (IndexHandle, watch::Receiver<Readiness>, impl Future<Output = ()>) {
    let (events, incoming) = mpsc::channel(1024);
    let (ready, readiness) = watch::channel(Readiness::default());
    let task = Task {
        index: Index::new(instance),
        ready,
        objects_seen: HashSet::new(),
        secrets_seen: HashSet::new(),
        devices_seen: HashSet::new(),
        objects_listed: HashSet::new(),
        secrets_listed: HashSet::new(),
    };
    (IndexHandle { events }, readiness, task.run(incoming, wakes))
}

struct Task {
    index: Index,
    ready: watch::Sender<Readiness>,
    objects_seen: HashSet<ObjectKey>,
    secrets_seen: HashSet<ObjectKey>,
    devices_seen: HashSet<String>,
    objects_listed: HashSet<Option<String>>,
    secrets_listed: HashSet<Option<String>>,
}

impl Task {
    async fn run(mut self, mut incoming: mpsc::Receiver<Event>, wakes: mpsc::Sender<Wake>) {
        while let Some(event) = incoming.recv().await {
            for wake in self.hear(event) {
                if wakes.send(wake).await.is_err() {
                    return;
                }
            }
            let settled = self.index.agents_settled();
            self.note(|ready| ready.agents = settled);
        }
    }

    fn note(&self, change: impl FnOnce(&mut Readiness)) {
        self.ready.send_if_modified(|ready| {
            let before = *ready;
            change(ready);
            *ready != before
        });
    }

    fn hear(&mut self, event: Event) -> Vec<Wake> {
        let index = &mut self.index;
        match event {
            Event::Object(event) => return self.object(*event),
            Event::ObjectPatched(object) => return index.object_patched(*object),
            Event::Secret(event) => return self.secret(event),
            Event::Device(event) => return self.device(*event),
            Event::AgentAdded(name) => index.agent_added(name),
            Event::AgentRemoved(name) => return index.agent_removed(&name),
            Event::AgentConnected(name, client) => index.agent_connected(&name, client),
            Event::AgentLost(name, why) => return index.agent_lost(&name, &why),
            Event::Nameless(name, nameless) => return index.nameless(&name, nameless),
            Event::Tokens(name, list) => return index.tokens_listed(&name, list),
            Event::Fed(name, token, event) => return index.fed(&name, token, event),
            // The one who tells is the one who would be woken.
            Event::SecretSeen(key, meta) => drop(index.secret_applied(&key, meta)),
            Event::SecretGone(key) => index.secret_gone(&key),
            Event::RecordWritten(name, token, path, revision) => {
                return index.record_written(&name, token, path, *revision);
            }
            Event::Remember(key, uid, memory) => index.remember(&key, &uid, *memory),
            Event::Observe(key, reply) => drop(reply.send(index.observe(&key))),
            Event::States(reply) => drop(reply.send(index.states().collect())),
        }
        Vec::new()
    }

    fn object(&mut self, event: Scoped<HSMSecret>) -> Vec<Wake> {
        match event {
            Scoped::Applied(object) => {
                self.objects_seen.extend(ObjectKey::of(&object.metadata));
                self.index.object_applied(object)
            }
            Scoped::Deleted(object) => {
                ObjectKey::of(&object.metadata).map_or_else(Vec::new, |key| self.index.object_deleted(&key))
            }
            Scoped::Begin(scope) => {
                forget(&mut self.objects_seen, scope.as_deref());
                Vec::new()
            }
            Scoped::Listed(scope) => {
                let wakes = self.index.objects_listed(scope.as_deref(), &self.objects_seen);
                forget(&mut self.objects_seen, scope.as_deref());
                self.objects_listed.insert(scope);
                let scopes = self.objects_listed.len();
                self.note(|ready| ready.objects = scopes);
                wakes
            }
        }
    }

    fn secret(&mut self, event: Scoped<(ObjectKey, SecretMeta)>) -> Vec<Wake> {
        match event {
            Scoped::Applied((key, meta)) => {
                self.secrets_seen.insert(key.clone());
                self.index.secret_applied(&key, meta)
            }
            Scoped::Deleted((key, meta)) => self.index.secret_deleted(&key, &meta.resource_version),
            Scoped::Begin(scope) => {
                forget(&mut self.secrets_seen, scope.as_deref());
                Vec::new()
            }
            Scoped::Listed(scope) => {
                let wakes = self.index.secrets_listed(scope.as_deref(), &self.secrets_seen);
                forget(&mut self.secrets_seen, scope.as_deref());
                self.secrets_listed.insert(scope);
                let scopes = self.secrets_listed.len();
                self.note(|ready| ready.secrets = scopes);
                wakes
            }
        }
    }

    fn device(&mut self, event: Scoped<HSMDevice>) -> Vec<Wake> {
        match event {
            Scoped::Applied(device) => {
                let Some(name) = device.metadata.name.clone() else { return Vec::new() };
                self.devices_seen.insert(name.clone());
                self.index.device_changed(name, Some(&device))
            }
            Scoped::Deleted(device) => match device.metadata.name {
                Some(name) => self.index.device_changed(name, None),
                None => Vec::new(),
            },
            Scoped::Begin(_) => {
                self.devices_seen.clear();
                Vec::new()
            }
            Scoped::Listed(_) => {
                let wakes = self.index.devices_listed(&self.devices_seen);
                self.devices_seen.clear();
                self.note(|ready| ready.devices = true);
                wakes
            }
        }
    }
}

/// Applied events between lists fill the set too; a new list begins empty.
fn forget(seen: &mut HashSet<ObjectKey>, namespace: Option<&str>) {
    match namespace {
        None => seen.clear(),
        Some(namespace) => seen.retain(|key| key.namespace != namespace),
    }
}
