//! Where the values of a `put` come from: files, lines of an env file, stdin. Never argv, never the environment.

use std::io::Read as _;
use std::path::Path;

use hsm_types::{Key, Payload, Value};
use zeroize::Zeroizing;

use super::Failure;
use super::args::PutArgs;

/// More than any record takes; reading stops there.
const MOST: u64 = 4 * 1024 * 1024;

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage(message.into())
}

/// Reads everything that the flags name.
pub(super) fn read(args: &PutArgs) -> Result<Payload, Failure> {
    if args.from_file.is_empty() && args.from_env_file.is_none() {
        return Err(usage(
            "no values: give --from-file [KEY=]FILE or --from-env-file FILE (KEY=- and - are stdin)",
        ));
    }
    let stdins = args.from_file.iter().filter(|s| *s == "-" || s.ends_with("=-")).count()
        + usize::from(args.from_env_file.as_deref() == Some("-"));
    if stdins > 1 {
        return Err(usage("stdin can be read only once"));
    }
    let mut payload = Payload::new();
    for source in &args.from_file {
        let (key, file) = match source.split_once('=') {
            Some((key, file)) => (Some(key), file),
            None => (None, source.as_str()),
        };
        match (key, file) {
            (None, "-") => return Err(usage("stdin has no name to be the key; write --from-file KEY=-")),
            (Some(_) | None, "") => return Err(usage(format!("--from-file {source:?} names no file"))),
            (Some(key), file) => add(&mut payload, key, Value::new(bytes(file)?))?,
            (None, file) if Path::new(file).is_dir() => {
                for (name, file) in files(Path::new(file))? {
                    add(&mut payload, &name, Value::new(bytes(&file)?))?;
                }
            }
            (None, file) => {
                let name = Path::new(file).file_name().and_then(|n| n.to_str());
                let name = name.ok_or_else(|| {
                    usage(format!("{file:?} has no name that can be a key; write KEY=FILE"))
                })?;
                add(&mut payload, name, Value::new(bytes(file)?))?;
            }
        }
    }
    if let Some(file) = &args.from_env_file {
        let text = Zeroizing::new(bytes(file)?);
        let text = std::str::from_utf8(&text).map_err(|_| usage(format!("{file} is not text")))?;
        for (number, line) in text.lines().enumerate() {
            if let Some((key, value)) =
                env_line(line).map_err(|why| usage(format!("{file}, line {}: {why}", number + 1)))?
            {
                add(&mut payload, key, Value::new(value.as_bytes().to_vec()))?;
            }
        }
    }
    Ok(payload)
}

fn add(payload: &mut Payload, key: &str, value: Value) -> Result<(), Failure> {
    let key = Key::new(key).map_err(|e| usage(e.to_string()))?;
    if payload.get(key.as_str()).is_some() {
        return Err(usage(format!("the key {key} is given twice")));
    }
    payload.insert(key, value);
    Ok(())
}

/// The rules of `kubectl create secret --from-env-file`: no quoting; a key without `=` would be taken from the
/// environment, where a value must not be.
fn env_line(line: &str) -> Result<Option<(&str, &str)>, &'static str> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    line.split_once('=').map(Some).ok_or("expected KEY=VALUE; a value is never taken from the environment")
}

fn bytes(file: &str) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::Other(format!("{file} cannot be read: {e}"));
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024));
    if file == "-" {
        std::io::stdin().lock().take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(file).and_then(|f| f.take(MOST + 1).read_to_end(&mut bytes)).map_err(failed)?;
    }
    if bytes.len() as u64 > MOST {
        return Err(usage(format!("{file} is too large for a record")));
    }
    Ok(std::mem::take(&mut *bytes))
}

fn files(folder: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if let (true, Some(name), Some(text)) =
            (path.is_file(), path.file_name().and_then(|n| n.to_str()), path.to_str())
        {
            found.push((name.to_owned(), text.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_cli::args::{Encryption, Format};

    fn args(from_file: &[&str], env: Option<&str>) -> PutArgs {
        PutArgs {
            path: "a".into(),
            from_file: from_file.iter().map(|s| (*s).to_owned()).collect(),
            from_env_file: env.map(str::to_owned),
            replace: false,
            expect_version: None,
            keep_history: 3,
            encryption: Encryption::Envelope,
            dry_run: false,
            output: Format::Table,
        }
    }

    #[test]
    fn values_come_from_files_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tls.crt");
        std::fs::write(&file, [0, 0xff, b'\n']).unwrap();
        let env = dir.path().join("env");
        std::fs::write(&env, "# c\n\nA=1=2\n B=\"q\" \n").unwrap();
        let file = file.to_str().unwrap();
        let payload = read(&args(&[file, &format!("other={file}")], env.to_str())).ok().unwrap();
        let get = |k: &str| payload.get(k).unwrap().expose().to_vec();
        assert_eq!(get("tls.crt"), [0, 0xff, b'\n']);
        assert_eq!(get("other"), [0, 0xff, b'\n']);
        assert_eq!(get("A"), b"1=2");
        assert_eq!(get("B"), b"\"q\" ");
    }

    #[test]
    fn unclear_sources_are_usage_errors() {
        for (files, env) in [
            (&[][..], None),
            (&["-"][..], None),
            (&["a=-", "b=-"][..], None),
            (&["a=-"][..], Some("-")),
            (&["a="][..], None),
        ] {
            assert!(matches!(read(&args(files, env)), Err(Failure::Usage(_))), "{files:?}");
        }
        assert!(env_line("PATH").is_err());
    }
}
