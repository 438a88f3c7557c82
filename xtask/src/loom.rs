//! The models that loom explores: test files with something under `cfg(loom)`, of crates that depend on loom.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::tally::Tally;
use crate::{proc, test, tidy};

/// A crate and the names of its test files that hold models.
pub(crate) struct Models {
    pub(crate) package: String,
    files: Vec<String>,
}

pub(crate) fn find() -> Result<Vec<Models>> {
    let metadata = tidy::metadata()?;
    let mut models = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let mut dependencies = package["dependencies"].as_array().into_iter().flatten();
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        if dependencies.any(|dependency| dependency["name"].as_str() == Some("loom")) {
            let files = files_with_models(&Path::new(manifest).with_file_name("tests"));
            models.push(Models {
                package: package["name"].as_str().unwrap_or_default().to_owned(),
                files,
            });
        }
    }
    models.retain(|model| !model.files.is_empty());
    Ok(models)
}

/// Runs them all, and counts each test.
pub(crate) fn run(tally: &mut Tally) {
    match find() {
        Err(error) => tally.fail(format!("loom: {error:#}")),
        Ok(models) => {
            for model in &models {
                println!("== loom: {}", model.package);
                test::count(&format!("loom: {}", model.package), command(model), tally);
            }
        }
    }
}

fn command(model: &Models) -> std::process::Command {
    let mut cargo = proc::host_cargo();
    cargo
        .args(["test", "--release", "-p", &model.package])
        .env("RUSTFLAGS", "--cfg loom");
    for file in &model.files {
        cargo.args(["--test", file]);
    }
    cargo.env("CARGO_TARGET_DIR", proc::target_dir().join("loom"));
    cargo
}

fn files_with_models(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.path());
    let with_models =
        files.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("cfg(loom)")));
    let mut names: Vec<String> = with_models
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}
