//! The fake agent of the tests as a program, to try the controller by hand without a token.
//!
//! `fake-agent serve ADDRESS`, `fake-agent put ADDRESS PATH KEY=VALUE...`, `fake-agent get|delete ADDRESS PATH`.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

#[allow(dead_code)]
#[path = "../tests/fake_agent/mod.rs"]
mod fake_agent;

use hsm_proto::agent as wire;
use hsm_proto::agent::records_client::RecordsClient;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let address = &args[1];
    if args[0] == "serve" {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let agent = fake_agent::FakeAgent::new(7);
        let shown = agent.clone();
        tokio::spawn(async move {
            let mut last = Default::default();
            loop {
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                let calls = shown.calls();
                if calls != last {
                    println!("{calls:?}");
                    last = calls;
                }
            }
        });
        return Ok(agent.serve(listener).await?);
    }
    let mut client = RecordsClient::connect(format!("http://{address}")).await?;
    let path = args[2].clone();
    let found = client.get(wire::GetRecordRequest { token_id: String::new(), path: path.clone() }).await;
    let found = match found {
        Ok(found) => found.into_inner().records.pop(),
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => return Err(status.into()),
    };
    let stamp = found.as_ref().and_then(|r| {
        let v = r.revision.as_ref()?.version.clone()?;
        Some(wire::Stamp { incarnation: v.incarnation, epoch: v.epoch, counter: v.counter })
    });
    match args[0].as_str() {
        "get" => {
            let Some(record) = found else { anyhow::bail!("absent") };
            let content = record.content.unwrap_or_default();
            let data: std::collections::BTreeMap<_, _> = content.data.into_iter().collect();
            for (key, value) in data {
                println!("{key}={}", String::from_utf8_lossy(&value));
            }
        }
        "put" => {
            use wire::put_record_request::Expect;
            let data = args[3..]
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec()))
                .collect();
            let request = wire::PutRecordRequest {
                path,
                content: Some(wire::Content { data, metadata: None }),
                expect: Some(stamp.map_or(Expect::Absent(true), Expect::Stamp)),
                ..Default::default()
            };
            client.put(request).await?;
        }
        "delete" => {
            client.delete(wire::DeleteRecordRequest { path, expect: stamp, ..Default::default() }).await?;
        }
        other => anyhow::bail!("{other}?"),
    }
    Ok(())
}
