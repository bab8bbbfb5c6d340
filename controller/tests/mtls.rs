//! Agents are called over mutual TLS: without the right certificate on either side, nothing is said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(missing_docs, dead_code, unreachable_pub, clippy::all, clippy::pedantic)]
mod fake_agent;

use std::path::Path;

use fake_agent::FakeAgent;
use hsm_controller::agents::{AgentClient, Connector, Put, Source, TlsFiles};
use hsm_types::{Content, Key, RecordPath, Value};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(ca: &Ca, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

fn files(folder: &Path, ca: &Ca, (cert, key): &(String, String)) -> TlsFiles {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles { ca: write("ca", &ca.pem()), cert: write("cert", cert), key: write("key", key) }
}

#[tokio::test]
async fn only_the_right_certificates_on_both_sides_get_an_answer() {
    let (ours, strangers) = (ca(), ca());
    let (cert, key) = leaf(&ours, "node-1.agents");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ours.pem()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let agent = FakeAgent::new(9);
    let token = agent.token();
    let server = Server::builder().tls_config(tls).unwrap();
    tokio::spawn(agent.serve_with(server, listener));

    let folder = tempfile::tempdir().unwrap();
    let good = files(folder.path(), &ours, &leaf(&ours, "controller"));
    let connector = Connector { tls: Some(good.clone()), server_name: Some("node-1.agents".to_owned()) };
    let client = AgentClient::new(connector.connect(&url).await.unwrap());
    let path = RecordPath::new("secrets/a/b").unwrap();
    assert!(client.get(token, &path, "r1").await.unwrap().is_none());
    let data = [(Key::new("k").unwrap(), Value::new(b"v".to_vec()))].into_iter().collect();
    let content = Content { data, ..Content::default() };
    let put =
        Put { content: &content, expect: None, from: Source::Secret, parents: &[], history_limit: None };
    let written = client.put(token, &path, put, "r2").await.unwrap();
    let read = client.get(token, &path, "r3").await.unwrap().unwrap();
    assert_eq!(read[0].0, written);

    // The agent's name is not the one that was asked for.
    let other = Connector { tls: Some(good), server_name: Some("node-2.agents".to_owned()) };
    assert!(other.connect(&url).await.is_err());
    // A certificate that somebody else signed: TLS 1.3 says so at the first call.
    let folder = tempfile::tempdir().unwrap();
    let forged = files(folder.path(), &ours, &leaf(&strangers, "controller"));
    let forged = Connector { tls: Some(forged), server_name: Some("node-1.agents".to_owned()) };
    let refused = match forged.connect(&url).await {
        Err(_) => true,
        Ok(channel) => AgentClient::new(channel).get(token, &path, "r4").await.is_err(),
    };
    assert!(refused);
}
