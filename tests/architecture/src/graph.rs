//! The crates of a workspace and what they depend on, as `cargo metadata --no-deps` tells it.
//!
//! Only declared dependencies are read, optional ones included: a feature that is off today is an arrow all the same.

use serde_json::Value;

/// One crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crate {
    /// Its package name, such as `tidemill-base`.
    pub name: String,
    /// The folder of its `Cargo.toml`, relative to the workspace's, such as `engine/base`.
    pub folder: String,
    /// Package names of its normal and build dependencies, in and outside the workspace.
    pub dependencies: Vec<String>,
}

/// Reads the output of `cargo metadata --format-version 1 --no-deps`. Dev-dependencies are left out: a test may
/// point anywhere.
///
/// # Errors
/// Names the field that is missing or is not what cargo documents.
pub fn read(metadata: &Value) -> Result<Vec<Crate>, String> {
    let root = text(metadata, "workspace_root")?;
    list(metadata, "packages")?.iter().map(|package| read_package(package, root)).collect()
}

fn read_package(package: &Value, root: &str) -> Result<Crate, String> {
    let name = text(package, "name")?;
    let manifest = text(package, "manifest_path")?;
    let folder = manifest
        .strip_prefix(root)
        .and_then(|rest| rest.strip_suffix("Cargo.toml"))
        .ok_or_else(|| format!("{name}: its manifest {manifest} is not below {root}"))?;
    let mut dependencies = Vec::new();
    for dependency in list(package, "dependencies")? {
        if dependency.get("kind").and_then(Value::as_str) != Some("dev") {
            dependencies.push(text(dependency, "name")?.to_owned());
        }
    }
    Ok(Crate { name: name.to_owned(), folder: folder.trim_matches('/').to_owned(), dependencies })
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    value
        .get(field)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("cargo metadata: no text in the field `{field}`"))
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>, String> {
    value
        .get(field)
        .and_then(Value::as_array)
        .ok_or_else(|| format!("cargo metadata: no list in the field `{field}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_normal_and_build_dependencies_under_their_real_names() {
        let metadata = json!({
            "workspace_root": "/w",
            "packages": [{
                "name": "tidemill-ring",
                "manifest_path": "/w/engine/ring/Cargo.toml",
                "dependencies": [
                    { "name": "tidemill-base", "kind": null, "rename": "base" },
                    { "name": "cc", "kind": "build" },
                    { "name": "proptest", "kind": "dev" },
                    { "name": "rocksdb", "kind": null, "optional": true },
                ],
            }],
        });
        let expected = Crate {
            name: "tidemill-ring".into(),
            folder: "engine/ring".into(),
            dependencies: vec!["tidemill-base".into(), "cc".into(), "rocksdb".into()],
        };
        assert_eq!(read(&metadata), Ok(vec![expected]));
    }

    #[test]
    fn names_what_is_missing() {
        let error = read(&json!({ "workspace_root": "/w" })).unwrap_err();
        assert!(error.contains("packages"), "{error}");
        let package = json!({ "name": "a", "manifest_path": "/elsewhere/Cargo.toml" });
        let error = read(&json!({ "workspace_root": "/w", "packages": [package] })).unwrap_err();
        assert!(error.contains("/elsewhere"), "{error}");
    }
}
