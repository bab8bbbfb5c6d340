//! From a record to its JSON.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hsm_types::{Content, Digest, Key, KeyDigest, Origin, RecordPath, SecretMark, Version};
use zeroize::Zeroizing;

use super::{LONGEST_LABEL, RESERVED};
use crate::StoreError;
use crate::json::quote;

/// The value of the object that holds this version, at most `limit` bytes.
pub(crate) fn encode(
    path: &RecordPath,
    version: &Version,
    origin: &Origin,
    content: &Content,
    generation: u64,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let refused = |reason: String| StoreError::NotPlain { path: path.clone(), reason };
    if path.as_str().len() > LONGEST_LABEL {
        return Err(refused(format!(
            "its path has {} bytes, and a plain record's has at most {LONGEST_LABEL}",
            path.as_str().len()
        )));
    }
    if content.data.get(RESERVED).is_some() {
        return Err(refused(format!("the key {RESERVED} is reserved in plain records")));
    }
    let head = head(path, version, origin, content, generation);
    // Values are at most six times as long in JSON: the buffer does not move and leave a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(
        head.len() + 6 * content.data.size() + 8 * content.data.len() + 16,
    ));
    out.extend_from_slice(format!("{{\"{RESERVED}\":{head}").as_bytes());
    for (key, value) in &content.data {
        out.push(b',');
        quote(&mut out, key.as_str());
        out.push(b':');
        match std::str::from_utf8(value.expose()) {
            Ok(text) => quote(&mut out, text),
            Err(_) => quote(&mut out, &Zeroizing::new(STANDARD.encode(value.expose()))),
        }
    }
    out.push(b'}');
    if out.len() > limit {
        return Err(refused(format!(
            "it has {} bytes as a plain record, and at most {limit} are possible",
            out.len()
        )));
    }
    Ok(out)
}

fn head(path: &RecordPath, version: &Version, origin: &Origin, content: &Content, generation: u64) -> String {
    let digest = Digest::of(path, version.incarnation, content);
    let mut members = vec![
        ("format", "1".to_owned()),
        ("path", text(path.as_str())),
        ("version", text(&version.stamp().to_string())),
        ("generation", generation.to_string()),
        ("digest", text(&hex(digest.as_bytes()))),
    ];
    let point = |epoch: &hsm_types::EpochId, counter: u64| {
        text(&format!("{}.{counter}-{}", epoch.number, epoch.writer))
    };
    if !version.lineage.is_empty() {
        let ends: Vec<String> = version.lineage.iter().map(|(epoch, end)| point(epoch, *end)).collect();
        members.push(("lineage", format!("[{}]", ends.join(","))));
    }
    let mark = match origin {
        Origin::Secret => {
            members.push(("secret", "true".to_owned()));
            let digests = content
                .data
                .iter()
                .map(|(key, value)| (key.clone(), KeyDigest::of(version.incarnation, key, value)));
            Some(SecretMark { stamp: version.stamp(), keys: digests.collect() })
        }
        Origin::Token { mark } => mark.clone(),
    };
    if let Some(mark) = mark {
        let keys = mark.keys.iter().map(|(key, digest)| (key.as_str(), hex(digest.as_bytes())));
        let at = point(&mark.stamp.epoch, mark.stamp.counter);
        members.push(("mark", format!("{{\"version\":{at},\"keys\":{}}}", object(keys))));
    }
    let binary: Vec<&Key> = content
        .data
        .iter()
        .filter(|(_, value)| std::str::from_utf8(value.expose()).is_err())
        .map(|(key, _)| key)
        .collect();
    if !binary.is_empty() {
        let keys: Vec<String> = binary.iter().map(|key| text(key.as_str())).collect();
        members.push(("base64", format!("[{}]", keys.join(","))));
    }
    let metadata = &content.metadata;
    if !metadata.description.is_empty() {
        members.push(("description", text(&metadata.description)));
    }
    for (name, map) in [("labels", &metadata.labels), ("attributes", &metadata.attributes)] {
        if !map.is_empty() {
            members.push((name, object(map.iter().map(|(name, value)| (name.as_str(), value.clone())))));
        }
    }
    let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn object<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{}:{}", text(name), text(&value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// A JSON string that holds no secret.
fn text(text: &str) -> String {
    let mut out = Vec::new();
    quote(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
