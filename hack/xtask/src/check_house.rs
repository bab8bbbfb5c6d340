//! Holds DESIGN's "must never know" column: the dependency tree of each crate, who may import the two libraries
//! that touch hardware, and what the pure crates say in their source.

mod rules;
mod source;
mod tree;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use rules::{BANNED, OWNED, PURE, ROOMS, STAND_INS, UNRULED};

/// Fails with every broken wall, each with the way by which the forbidden crate came in.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let packages = packages(&root)?;
    let mut broken = unruled(&packages);
    broken.extend(imports(&packages));
    for room in ROOMS {
        let mut of = vec!["-e", "normal,build", "-p", room.package];
        of.extend(room.all_features.then_some("--all-features"));
        let tree = cargo_tree(&root, &of)?;
        broken.extend(tree::offences(&tree, room.never).iter().map(|chain| {
            format!("{} must never know {} ({}): {chain}", room.package, chain.offender(), room.why)
        }));
    }
    let everything = cargo_tree(&root, &["-e", "normal,build,dev", "--workspace", "--target", "all"])?;
    for (name, why) in BANNED {
        let chains = tree::offences(&everything, &[name]);
        broken.extend(chains.iter().map(|chain| format!("{name} is banned ({why}): {chain}")));
    }
    for package in packages.iter().filter(|package| PURE.contains(&package.name.as_str())) {
        broken.extend(source::offences(&package.folder().join("src"))?);
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{} walls of the house are broken:\n  {}", broken.len(), broken.join("\n  "))
}

/// A member of the workspace, as `cargo metadata` tells it.
#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
}

impl Package {
    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }
}

/// A new crate needs a rule, or a word on why it has none; a rule needs its crate.
fn unruled(packages: &[Package]) -> Vec<String> {
    let ruled = || ROOMS.iter().map(|room| room.package).chain(UNRULED.iter().map(|(name, _)| *name));
    let without = packages
        .iter()
        .filter(|package| !ruled().any(|name| name == package.name))
        .map(|package| format!("{} has no rule: say in rules.rs what it must never know", package.name));
    let gone = ruled()
        .filter(|name| !packages.iter().any(|package| package.name == *name))
        .map(|name| format!("rules.rs has a rule for {name}, which is not in the workspace"));
    without.chain(gone).collect()
}

/// Whoever imports an owned library without owning it; optional and test dependencies count too.
fn imports(packages: &[Package]) -> Vec<String> {
    let mut broken = Vec::new();
    for (library, owner) in OWNED {
        let may = |name: &str| name == *owner || STAND_INS.contains(&(*library, name));
        for package in packages.iter().filter(|package| !may(&package.name)) {
            if package.dependencies.iter().any(|dependency| dependency.name == *library) {
                broken.push(format!("{} imports {library}: only {owner} may", package.name));
            }
        }
    }
    broken
}

fn packages(root: &Path) -> anyhow::Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let text = cargo(root, &["metadata", "--offline", "--no-deps", "--format-version", "1"])?;
    let metadata: Metadata =
        serde_json::from_str(&text).context("cannot read the output of cargo metadata")?;
    Ok(metadata.packages)
}

fn cargo_tree(root: &Path, of: &[&str]) -> anyhow::Result<String> {
    let form = ["tree", "--offline", "--prefix", "depth", "--format", " {p}"];
    cargo(root, &[&form, of].concat())
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    // Cargo tells its own path to what it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let run = || format!("cargo {}", arguments.join(" "));
    let output = Command::new(cargo).args(arguments).current_dir(root).output().with_context(run)?;
    if !output.status.success() {
        bail!("`{}` failed: {}", run(), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|name| Dependency { name: (*name).to_owned() }).collect();
        Package { name: name.to_owned(), manifest_path: PathBuf::from("a/Cargo.toml"), dependencies }
    }

    #[test]
    fn only_the_owner_imports_a_library() {
        let packages = [
            package("hsm-token", &["cryptoki"]),
            package("hsm-store", &["cryptoki", "hsm-types"]),
            package("x", &["rusb"]),
        ];
        assert_eq!(
            imports(&packages),
            ["hsm-store imports cryptoki: only hsm-token may", "x imports rusb: only hsm-usb may"]
        );
    }

    #[test]
    fn a_crate_without_a_rule_is_noticed() {
        let known = ROOMS.iter().map(|room| room.package).chain(UNRULED.iter().map(|(name, _)| *name));
        let mut packages: Vec<Package> = known.map(|name| package(name, &[])).collect();
        assert_eq!(unruled(&packages), Vec::<String>::new());
        packages[0].name = "hsm-new".to_owned();
        assert_eq!(unruled(&packages).len(), 2);
    }
}
