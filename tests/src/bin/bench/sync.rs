//! `hack/bench sync`: how long the operator needs for N new HSMSecrets, as a ratio to a bare client that only writes.
//!
//! The floor is measured in the same run against the same API server: the same Secrets and statuses, written by a plain
//! client at the best of several concurrencies. Writes are counted by the API server's own metrics, token operations by
//! the agent's, memory by the kernel (VmHWM).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use hsm_api::HSMSecret;
use hsm_tests::World;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;

const VALUE: &str = "a password of usual length";

pub(crate) async fn sync(count: usize) -> Result<()> {
    let mut world = World::start(1)?;
    world.kill_controller();
    let client = client(&world).await?;
    for namespace in ["floor", "bench"] {
        world.namespace(namespace)?;
    }

    let mut floor = Duration::MAX;
    let mut best = 0;
    for concurrency in [8, 16, 32, 64] {
        make_wishes(&client, "floor", count).await?;
        let took = write_floor(&client, count, concurrency).await?;
        if took < floor {
            (floor, best) = (took, concurrency);
        }
        empty(&client, "floor").await?;
    }
    println!("floor         {:8.2} s   {count} Secrets and statuses, {best} at a time", floor.as_secs_f64());

    for i in 0..count {
        world.nodes[0].put(&path(i), &[("password", VALUE)])?;
    }
    make_wishes(&client, "bench", count).await?;
    let writes_before = api_writes(&world)?;
    let operations_before = token_operations(&world)?;
    let started = Instant::now();
    world.start_controller()?;
    let api: Api<HSMSecret> = Api::namespaced(client.clone(), "bench");
    loop {
        let list = api.list(&ListParams::default()).await?;
        let done = list.iter().filter(|s| sync_status(s) == "InSync").count();
        if done == count {
            break;
        }
        anyhow::ensure!(
            started.elapsed() < Duration::from_mins(10),
            "only {done} of {count} after 10 minutes"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = started.elapsed();
    println!("all InSync    {:8.2} s   from the controller's start", took.as_secs_f64());
    println!("ratio         {:8.2}     (aim: at most 3)", took.as_secs_f64() / floor.as_secs_f64());

    // Events are written beside the work; give the last of them a moment.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = difference(&api_writes(&world)?, &writes_before);
    let operations = difference(&token_operations(&world)?, &operations_before);
    println!(
        "API writes    {:8.2}     per secret, the Secret included (aim: at most 4)",
        per(&writes, count)
    );
    for (what, n) in &writes {
        println!("                         {n:6} {what}");
    }
    println!("token calls   {:8.2}     per secret", per(&operations, count));
    for (what, n) in &operations {
        println!("                         {n:6} {what}");
    }

    let before = api_writes(&world)?;
    let read_before = token_operations(&world)?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let idle: u64 = difference(&api_writes(&world)?, &before).values().sum();
    let reads = difference(&token_operations(&world)?, &read_before);
    println!("idle, 60 s    {idle:8}     API writes (aim: 0); token calls: {reads:?}");
    let agent = world.nodes[0].agent_pid().context("no agent")?;
    let controller = world.controller_pid().context("no controller")?;
    println!("peak memory   {:8.1} MiB agent, {:.1} MiB controller", peak_mib(agent)?, peak_mib(controller)?);
    println!("profile       {}", if cfg!(debug_assertions) { "debug" } else { "release" });
    Ok(())
}

fn path(i: usize) -> String {
    format!("secrets/bench/s{i}")
}

fn sync_status(secret: &HSMSecret) -> String {
    let value = serde_json::to_value(&secret.status).unwrap_or_default();
    value["syncStatus"].as_str().unwrap_or_default().to_owned()
}

async fn client(world: &World) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(world.plane.kubeconfig())?;
    Ok(Client::try_from(
        Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?,
    )?)
}

/// Makes the HSMSecrets, which both sides of the comparison find.
async fn make_wishes(client: &Client, namespace: &str, count: usize) -> Result<()> {
    let api: Api<HSMSecret> = Api::namespaced(client.clone(), namespace);
    stream::iter(0..count)
        .map(|i| {
            let api = api.clone();
            async move {
                let wish = serde_json::from_value(json!({
                    "apiVersion": "hsm.j5t.io/v1alpha1", "kind": "HSMSecret",
                    "metadata": {"name": format!("s{i}")}, "spec": {},
                }))?;
                api.create(&PostParams::default(), &wish).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(32)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

/// What nobody can do without: one Secret and one status for each.
async fn write_floor(client: &Client, count: usize, concurrency: usize) -> Result<Duration> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "floor");
    let wishes: Api<HSMSecret> = Api::namespaced(client.clone(), "floor");
    let started = Instant::now();
    stream::iter(0..count)
        .map(|i| {
            let (secrets, wishes) = (secrets.clone(), wishes.clone());
            async move {
                let name = format!("s{i}");
                let secret = serde_json::from_value(json!({
                    "metadata": {"name": name, "labels": {"managed-by": "hsm-secrets-operator"}},
                    "stringData": {"password": VALUE},
                }))?;
                secrets.create(&PostParams::default(), &secret).await?;
                let status = json!({"status": {"syncStatus": "InSync", "lastError": "x".repeat(600)}});
                wishes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(concurrency)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(started.elapsed())
}

async fn empty(client: &Client, namespace: &str) -> Result<()> {
    let all = ListParams::default();
    Api::<HSMSecret>::namespaced(client.clone(), namespace)
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    Api::<Secret>::namespaced(client.clone(), namespace)
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// The API server's count of writes, by verb and resource; Leases are not counted.
fn api_writes(world: &World) -> Result<BTreeMap<String, u64>> {
    let metrics = world.plane.kubectl(&["get", "--raw", "/metrics"])?;
    let lines = metrics.lines().filter(|l| l.starts_with("apiserver_request_total{"));
    let mut writes = BTreeMap::new();
    for line in lines {
        let label = |name: &str| label(line, name).unwrap_or_default();
        let verb = label("verb");
        let ours = ["hsmsecrets", "hsmdevices", "secrets", "events"].contains(&label("resource").as_str());
        if !ours || !["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb.as_str()) {
            continue;
        }
        let (resource, sub, code) = (label("resource"), label("subresource"), label("code"));
        let name = format!("{verb} {resource}{}{sub} {code}", if sub.is_empty() { "" } else { "/" });
        *writes.entry(name).or_default() += value(line);
    }
    Ok(writes)
}

fn token_operations(world: &World) -> Result<BTreeMap<String, u64>> {
    let metrics = world.nodes[0].metrics()?;
    let lines = metrics.lines().filter(|l| l.starts_with("hsm_token_operations_total{"));
    Ok(lines.map(|l| (label(l, "op").unwrap_or_default(), value(l))).fold(
        BTreeMap::new(),
        |mut all, (op, n)| {
            *all.entry(op).or_default() += n;
            all
        },
    ))
}

fn label(line: &str, name: &str) -> Option<String> {
    line.split([',', '{'])
        .find_map(|part| Some(part.strip_prefix(name)?.strip_prefix("=\"")?.split('"').next()?.to_owned()))
}

fn value(line: &str) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
    line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()).map_or(0, |v| v as u64)
}

fn difference(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    now.iter()
        .map(|(k, n)| (k.clone(), n - before.get(k).copied().unwrap_or(0)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn per(counts: &BTreeMap<String, u64>, count: usize) -> f64 {
    counts.values().sum::<u64>() as f64 / count as f64
}

fn peak_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib / 1024.0)
}
