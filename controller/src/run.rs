//! The composition root: makes the parts, connects them, and ends when one ends that should not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as signals};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agents::{follow_slices, supervise};
use crate::config::Config;
use crate::http::{self, Shared};
use crate::index::{self, Event, Readiness};
use crate::metrics::Metrics;
use crate::reconcile::Context;
use crate::watch::Sink;
use crate::{COMMIT, VERSION, device_status, digest_key, dispatch, watch};

/// How long ending may take: the turns' drain and a little.
const END: Duration = Duration::from_secs(25);

/// A part of the controller: what it is called, and how it ended.
type Part = (&'static str, anyhow::Result<()>);

/// Runs until SIGTERM or SIGINT, or until a part ends unexpectedly.
pub async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(
        version = VERSION,
        commit = COMMIT,
        instance = config.instance.name,
        "the controller starts"
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let mut parts = JoinSet::new();
    start(&config, &mut parts, &stop).await?;
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = parts.join_next() => match ended {
            Some(Ok((name, Ok(())))) => Err(anyhow::anyhow!("the part {name} ended")),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("the part {name} failed"))),
            Some(Err(error)) => Err(anyhow::Error::new(error).context("a part failed")),
            None => Err(anyhow::anyhow!("nothing runs")),
        },
    };
    tracing::info!("the controller stops: turns that are under way are ended");
    stop.cancel();
    let drained = async {
        while let Some(ended) = parts.join_next().await {
            if matches!(ended, Ok(("the turns", _))) {
                break;
            }
        }
    };
    if tokio::time::timeout(END, drained).await.is_err() {
        bail!("the controller did not end in time");
    }
    result
}

async fn start(config: &Config, parts: &mut JoinSet<Part>, stop: &CancellationToken) -> anyhow::Result<()> {
    let health = http::bind(config.health_listen, "--health-listen").await?;
    let metrics_listener = http::bind(config.metrics_listen, "--metrics-listen").await?;
    let rest = http::bind(config.rest_listen, "--rest-listen").await?;
    let kube = kube::Config::infer().await.context("no cluster: set KUBECONFIG, or run in a pod")?;
    let client = Client::try_from(kube).context("cannot make a client from the kubeconfig")?;

    let metrics = Arc::new(Metrics::new());
    let (wakes, woken) = mpsc::channel(1024);
    let (index, readiness, task) = index::spawn(config.instance.clone(), wakes);
    parts.spawn(part("the index", async move {
        task.await;
        Ok(())
    }));
    let shared = Shared {
        ready: Arc::new(AtomicBool::new(false)),
        metrics: Arc::clone(&metrics),
        index: index.clone(),
    };
    parts.spawn(part("the health server", http::serve(health, http::health(shared.clone()), stop.clone())));
    parts.spawn(part(
        "the metrics server",
        http::serve(metrics_listener, http::metrics(shared.clone()), stop.clone()),
    ));
    parts.spawn(part("the REST server", http::serve(rest, http::rest(), stop.clone())));

    for (name, url) in &config.agents {
        index.tell(Event::AgentAdded(name.clone())).await?;
        parts.spawn(endless(
            "an agent's session",
            supervise(name.clone(), url.clone(), config.connector.clone(), index.clone()),
        ));
    }
    if let Some(service) = config.agent_endpoints.clone() {
        let follow = follow_slices(client.clone(), service, config.connector.clone(), index.clone());
        parts.spawn(endless("the watch of the agents", follow));
    }
    let sink = Sink { index: index.clone(), metrics: Arc::clone(&metrics) };
    for scope in &config.scopes {
        let objects = watch::objects(client.clone(), scope.clone(), sink.clone());
        parts.spawn(endless("the watch of HSMSecrets", objects));
        let secrets = watch::secrets(client.clone(), scope.clone(), sink.clone());
        parts.spawn(endless("the watch of Secrets", secrets));
    }
    let devices = watch::devices(client.clone(), config.instance.namespace.clone(), sink);
    parts.spawn(endless("the watch of HSMDevices", devices));
    let everywhere = config.scopes == [None];
    let told = device_status::follow(client.clone(), config.instance.namespace.clone(), everywhere);
    parts.spawn(endless("the statuses of HSMDevices", told));
    parts.spawn(part(
        "the turns",
        turns(config.clone(), client, index, metrics, woken, readiness, shared.ready, stop.clone()),
    ));
    Ok(())
}

/// Waits for the digest key, then hands out turns.
#[allow(clippy::too_many_arguments, reason = "the parts that meet here")]
async fn turns(
    config: Config,
    client: Client,
    index: index::IndexHandle,
    metrics: Arc<Metrics>,
    woken: mpsc::Receiver<index::Wake>,
    readiness: signals::Receiver<Readiness>,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let digest = tokio::select! {
        digest = digest_key::load(client.clone(), &config.instance.namespace) => Arc::new(digest),
        () = stop.cancelled() => return Ok(()),
    };
    let context = Context { client, index, digest, metrics, reporter: config.instance.name.clone() };
    let scopes = config.scopes.len();
    let mut listed = readiness.clone();
    let watch_ready = async move {
        // Readiness never goes back: a watch that is interrupted serves what was listed.
        if listed.wait_for(|r| r.objects >= scopes && r.secrets >= scopes && r.devices).await.is_ok() {
            ready.store(true, Ordering::Relaxed);
            tracing::info!("everything was listed; the controller is ready");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = dispatch::run(Arc::new(context), config.workers, scopes, woken, readiness, stop) => done,
        () = watch_ready => Ok(()),
    }
}

async fn part(name: &'static str, work: impl Future<Output = anyhow::Result<()>>) -> Part {
    (name, work.await)
}

async fn endless(name: &'static str, work: impl Future<Output = ()>) -> Part {
    work.await;
    (name, Ok(()))
}
