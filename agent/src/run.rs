//! `hsm-agent run`: puts the parts together, supervises them, and takes them down in order.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hsm_proto::agent::identity_server::IdentityServer;
use hsm_proto::agent::records_server::RecordsServer;
use hsm_proto::agent::tokens_server::TokensServer;
use hsm_token::pkcs11::TokenSelector;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::actor::{ActorConfig, Peers, TokenHandle, start};
use crate::config::{COMMIT, Chosen, RunArgs, RunConfig, VERSION};
use crate::health::{Health, routes};
use crate::log;
use crate::metrics::Metrics;
use crate::server::{CallLayer, Tls, incoming};
use crate::service::{Agent, IdentityService, MAX_MESSAGE, RecordsService, TokensService};
use crate::state::{Configured, Fences};

/// Runs the agent. Exit codes: 0 asked to stop, 1 failed, 2 cannot be configured so.
pub fn main(args: &RunArgs) -> ExitCode {
    let config = match log::start(args.log_format, &args.log_level).and_then(|()| args.validate()) {
        Ok(config) => config,
        Err(error) => {
            crate::token_cli::complain(&error.to_string());
            return ExitCode::from(2);
        }
    };
    // PINs and values pass through here too. Before any thread is there, as it asks for.
    let unprotected = hsm_token::worker::protect_memory();
    if !unprotected.is_empty() {
        tracing::warn!(refused = unprotected.join("; "), "The agent could not protect its memory fully.");
    }
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        crate::token_cli::complain("another TLS provider was installed before ours");
        return ExitCode::FAILURE;
    }
    let ran = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
        .and_then(|runtime| {
            let ran = runtime.block_on(run(config));
            // A blocked thread must not hold up the end; what matters was drained.
            runtime.shutdown_timeout(Duration::from_secs(1));
            ran
        });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "The agent ends.");
            ExitCode::FAILURE
        }
    }
}

/// What is being served, and how it is told to stop.
struct Running {
    tasks: JoinSet<(&'static str, Result<()>)>,
    tokens: Vec<TokenHandle>,
    stop_serving: watch::Sender<bool>,
    grpc_ended: CancellationToken,
    tokens_ended: CancellationToken,
}

/// How long idle connections get to say goodbye at shutdown.
const DEAF_CLIENTS: Duration = Duration::from_secs(2);
/// Longer than the worker's limit for a write and its grace.
const TOKEN_CLOSES: Duration = Duration::from_secs(70);

async fn run(config: RunConfig) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
    let metrics = Arc::new(Metrics::default());

    for token in &config.tokens {
        crate::token_open::prepare(token)
            .context("the folders cannot be made; see --runtime-dir and --state-dir")?;
    }
    let fences = Arc::new(Fences::load(&config.state_dir).context("the fences cannot be read")?);
    let configured = Configured::load(&config.state_dir).context("the configuration cannot be read")?;
    let tls = Arc::new(Tls::load(config.tls.clone()).context("TLS cannot be set up")?);
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("--listen {} cannot be bound", config.listen))?;
    let health_listener = TcpListener::bind(config.health_listen)
        .await
        .with_context(|| format!("--health-listen {} cannot be bound", config.health_listen))?;
    tracing::info!(
        node = config.node_name,
        version = VERSION,
        commit = COMMIT,
        listen = %listener.local_addr()?,
        health = %health_listener.local_addr()?,
        "The agent starts."
    );

    let mut tasks: JoinSet<(&'static str, Result<()>)> = JoinSet::new();
    let tokens_ended = CancellationToken::new();
    let tokens = start_tokens(&config, &configured, &metrics, &mut tasks, &tokens_ended)?;

    let (stop_serving, _) = watch::channel(false);
    let agent = Arc::new(Agent {
        node_name: config.node_name.clone(),
        instance: crate::random::hex::<8>(),
        tokens: tokens.clone(),
        fences,
        configured,
        serving: AtomicBool::new(true),
        stop: stop_serving.subscribe(),
    });
    let health = Arc::new(Health { ready: AtomicBool::new(true), metrics, tls: Arc::clone(&tls) });
    let app = routes(Arc::clone(&health));
    tasks.spawn(async move {
        let served = axum::serve(health_listener, app).await;
        ("health", served.context("the health server failed"))
    });
    let watching = Arc::clone(&tls).watch(config.tls_reload_interval);
    tasks.spawn(async move {
        watching.await;
        ("tls", Ok(()))
    });
    let (connections, accepting) = incoming(listener, tls, config.controller_identity.as_str().into());
    tasks.spawn(async move {
        accepting.await;
        ("accept", Ok(()))
    });
    let stopped = told(stop_serving.subscribe());
    let shared = Arc::clone(&agent);
    let calls = CallLayer::default();
    let layer = calls.clone();
    let grpc_ended = CancellationToken::new();
    let guard = grpc_ended.clone().drop_guard();
    tasks.spawn(async move {
        let served = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_adaptive_window(Some(true))
            .layer(layer)
            .add_service(IdentityServer::new(IdentityService(Arc::clone(&shared))))
            .add_service(TokensServer::new(TokensService(Arc::clone(&shared))))
            .add_service(
                RecordsServer::new(RecordsService(shared))
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .serve_with_incoming_shutdown(connections, stopped)
            .await;
        drop(guard);
        ("grpc", served.context("the gRPC server failed"))
    });

    let mut running = Running { tasks, tokens, stop_serving, grpc_ended, tokens_ended };
    let failed = tokio::select! {
        _ = terminate.recv() => { tracing::info!("SIGTERM: the agent stops."); None }
        _ = interrupt.recv() => { tracing::info!("SIGINT: the agent stops."); None }
        ended = running.tasks.join_next() => Some(unexpected(ended)),
    };
    agent.serving.store(false, Ordering::Relaxed);
    health.ready.store(false, Ordering::Relaxed);
    let closed = close(&mut running, calls, config.drain_timeout).await;
    if let Some(error) = failed {
        return Err(error);
    }
    closed?;
    tracing::info!("The agent has stopped.");
    Ok(())
}

/// One thread for each token. `ended` is cancelled when the last of them has ended.
fn start_tokens(
    config: &RunConfig,
    configured: &Configured,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<(&'static str, Result<()>)>,
    ended: &CancellationToken,
) -> Result<Vec<TokenHandle>> {
    let reader = |chosen: &Chosen| match &chosen.token {
        TokenSelector::Reader(name) => Some(name.clone()),
        _ => None,
    };
    let readers = config.tokens.iter().map(reader).collect();
    let peers = Arc::new(Peers::new(readers, config.ignored_readers.clone()));
    let guard = Arc::new(ended.clone().drop_guard());
    let start_one = |(place, chosen): (usize, &Chosen)| {
        let (token, end) = start(ActorConfig {
            chosen: chosen.clone(),
            poll: config.poll_interval,
            reread: config.reread,
            encryption: config.encryption,
            configured: configured.subscribe(),
            peers: Arc::clone(&peers),
            place,
            metrics: Arc::clone(metrics),
        })
        .context("a token's thread cannot be started")?;
        let guard = Arc::clone(&guard);
        tasks.spawn(async move {
            let end = end.await.context("a token's thread panicked");
            drop(guard);
            ("token", end)
        });
        Ok(token)
    };
    config.tokens.iter().enumerate().map(start_one).collect()
}

/// Why a task that should run for ever has ended.
fn unexpected(ended: Option<Result<(&'static str, Result<()>), tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, Ok(())))) => anyhow::anyhow!("the task {name} ended by itself"),
        Some(Ok((name, Err(error)))) => error.context(format!("the task {name} failed")),
        Some(Err(error)) => anyhow::anyhow!("a task panicked: {error}"),
        None => anyhow::anyhow!("no task is running"),
    }
}

/// Calls first, then the tokens (which finish the write under way), then the rest.
async fn close(running: &mut Running, calls: CallLayer, drain: Duration) -> Result<()> {
    let _ = running.stop_serving.send(true);
    // A client that has gone silent holds its connection, but no call: it is not waited for.
    let deaf = async {
        calls.idle().await;
        tokio::time::sleep(DEAF_CLIENTS).await;
    };
    tokio::select! {
        () = running.grpc_ended.cancelled() => {}
        () = deaf => {}
        () = tokio::time::sleep(drain) => {
            tracing::warn!("Calls under way did not finish within the drain timeout; their callers will see UNAVAILABLE.");
        }
    }
    // All are told before any is waited for.
    let told: Vec<_> =
        running.tokens.drain(..).map(|token| tokio::task::spawn_blocking(move || token.stop())).collect();
    for told in told {
        told.await?;
    }
    tokio::time::timeout(TOKEN_CLOSES, running.tokens_ended.cancelled())
        .await
        .context("a token did not finish its command in time; its outcome is unknown")?;
    running.tasks.shutdown().await;
    Ok(())
}

/// Ends when told to stop.
async fn told(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone: that is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}
