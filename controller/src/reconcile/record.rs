//! The steps that read and write the record on the primary.

use hsm_core::{Copy, PutSource, Side, ValueDigests, Values, Verdict};
use hsm_types::{Content, Payload, Presence, Revision, Stamp, Value, Version};

use super::fault::Fault;
use super::round::{Direction, Round};
use crate::agents::{Put, Source};
use crate::digest::marks;
use crate::index::{Event, RecordMemory};

impl Round<'_> {
    /// The one live version.
    pub(super) fn head(&self) -> Result<Revision, Fault> {
        let copy = self.token.present().and_then(|t| t.copy.present());
        match copy.map(|c| c.heads.as_slice()) {
            Some([head]) => Ok(head.clone()),
            _ => Err(Fault::moved("the record has not one version")),
        }
    }

    pub(super) async fn read_record(&mut self) -> Result<(), Fault> {
        let (view, agent) = self.agent()?;
        let path = self.valid()?.path.clone();
        let found = agent.get(view.token, &path, &self.request_id).await?;
        let Some(mut records) = found else {
            return Err(Fault::moved("the record is gone"));
        };
        match (records.pop(), records.is_empty()) {
            (Some((revision, content)), true) => {
                self.saw_record(&revision, content);
                Ok(())
            }
            _ => Err(Fault::moved("the record's versions are diverged")),
        }
    }

    /// The record's values are at hand after this, at the version that was planned for.
    pub(super) async fn read_record_if_needed(&mut self) -> Result<(), Fault> {
        if self.record.is_some() {
            return Ok(());
        }
        let planned = self.head()?;
        self.read_record().await?;
        if self.head()?.version == planned.version {
            Ok(())
        } else {
            Err(Fault::moved("the record changed before it could be read"))
        }
    }

    /// Takes in a record as the agent gave it, or as it was written there.
    fn saw_record(&mut self, revision: &Revision, content: Content) {
        let Ok(path) = self.valid().map(|w| w.path.clone()) else { return };
        let Presence::Present(view) = &mut self.token else { return };
        let life = revision.version.incarnation;
        let values: Values = {
            let marks = marks(life, &content.data);
            let macs = self.context.digest.values(&path, &content.data);
            macs.into_iter()
                .map(|(key, mac)| {
                    let mark = marks.get(&key).copied();
                    (key, ValueDigests { mac, mark })
                })
                .collect()
        };
        let tombstones = view.copy.present().map(|c| c.tombstones.clone()).unwrap_or_default();
        view.copy = Presence::Present(Copy { heads: vec![revision.clone()], tombstones, values: None });
        self.memory.record = Some(RecordMemory {
            token: view.token,
            stamp: revision.version.stamp(),
            digest: revision.digest,
            values,
            metadata: content.metadata.clone(),
        });
        // The Secret's marks are for one life: with its values at hand they are made for this one.
        if let (Some(read), Some(memory)) = (&self.secret_read, &mut self.memory.secret)
            && memory.resource_version == read.resource_version
        {
            memory.marks = Some((life, marks(life, &read.payload)));
        }
        self.record = Some(content);
    }

    pub(super) async fn put_record(
        &mut self,
        expect: Option<&Stamp>,
        source: &PutSource,
        parents: &[Version],
        why: &Verdict,
    ) -> Result<(), Fault> {
        let (view, agent) = self.agent()?;
        let path = self.valid()?.path.clone();
        let merged = matches!(source, PutSource::Merged(_));
        // What is written about a record stays when its values change.
        let metadata = match expect {
            None => hsm_types::Metadata::default(),
            Some(stamp) => {
                let known = |m: &&RecordMemory| m.token == view.token && m.stamp == *stamp;
                match self.memory.record.as_ref().filter(known) {
                    Some(memory) if !merged => memory.metadata.clone(),
                    _ => {
                        self.read_record_if_needed().await?;
                        self.record.as_ref().map(|c| c.metadata.clone()).unwrap_or_default()
                    }
                }
            }
        };
        let secret = self.secret_payload().await?.duplicate();
        let (data, from) = match source {
            PutSource::Secret => (secret, Source::Secret),
            PutSource::Merged(merge) => {
                let life = self.head()?.version.incarnation;
                let token = self.record.as_ref().map(|c| &c.data);
                let pick = |side: &Side| match side {
                    Side::Token => token,
                    Side::Secret => Some(&secret),
                };
                let taken: Option<Payload> = merge
                    .iter()
                    .map(|(key, side)| {
                        let value = pick(side)?.get(key.as_str())?;
                        Some((key.clone(), Value::new(value.expose().to_vec())))
                    })
                    .collect();
                let taken = taken.ok_or_else(|| Fault::moved("a side changed while it was merged"))?;
                (taken, Source::Merge(marks(life, &secret)))
            }
        };
        let content = Content { data, metadata };
        let history_limit = self.object.spec.history_limit.and_then(|limit| u32::try_from(limit).ok());
        let put = Put { content: &content, expect, from, parents, history_limit };
        let written = agent.put(view.token, &path, put, &self.request_id).await?;
        self.moved(Direction::ToToken, why);
        self.saw_record(&written, content);
        let told = Event::RecordWritten(view.node, view.token, path, Box::new(written));
        let _ = self.context.index.tell(told).await;
        Ok(())
    }

    pub(super) async fn delete_record(&mut self, expect: &[Stamp]) -> Result<(), Fault> {
        let (view, agent) = self.agent()?;
        let path = self.valid()?.path.clone();
        for stamp in expect {
            agent.delete(view.token, &path, stamp, &self.request_id).await?;
        }
        tracing::info!("deleted the record from the token, as the deletionPolicy says");
        if let Presence::Present(view) = &mut self.token {
            let tombstones = view.copy.present().map(|c| c.tombstones.clone()).unwrap_or_default();
            view.copy = Presence::Present(Copy { heads: Vec::new(), tombstones, values: None });
        }
        Ok(())
    }
}
