//! No dependency goes up: who may name whom.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Complaint;
use crate::proc;

/// What floors 0 to 4 hold, which floor 5 may use.
const LOWER: &[&str] = &[
    "kcoll",
    "frame",
    "host",
    "buddy",
    "kasan",
    "layers",
    "zone",
    "pagetable-walker",
    "slub",
    "vmalloc",
    "highmem",
    "dma",
    "devres",
];

/// A crate's floor, whether it may use all of [`LOWER`], and what else it may use.
struct Rule {
    name: &'static str,
    floor: u64,
    lower: bool,
    also: &'static [&'static str],
}

const fn rule(name: &'static str, floor: u64, lower: bool, also: &'static [&'static str]) -> Rule {
    Rule {
        name,
        floor,
        lower,
        also,
    }
}

const RULES: &[Rule] = &[
    rule(
        "kmm",
        6,
        true,
        &["fault", "procfs", "reclaim", "filemap", "vma"],
    ),
    rule("fault", 5, true, &["vma", "filemap", "reclaim"]),
    rule("procfs", 5, true, &["vma", "reclaim"]),
    rule("reclaim", 5, true, &["vma", "filemap"]),
    rule("filemap", 5, true, &[]),
    rule("vma", 5, true, &[]),
    rule("slub", 4, false, &["frame", "host", "kcoll", "kasan"]),
    rule(
        "vmalloc",
        4,
        false,
        &["frame", "host", "kcoll", "kasan", "pagetable-walker"],
    ),
    rule("highmem", 4, false, &["frame", "host", "pagetable-walker"]),
    rule("dma", 4, false, &["frame", "host", "kcoll"]),
    rule("devres", 4, false, &["frame", "host"]),
    rule("zone", 3, false, &["frame", "host", "kcoll", "buddy"]),
    rule("pagetable-walker", 3, false, &["frame", "host"]),
    rule("buddy", 2, false, &["frame", "host", "kcoll"]),
    rule("kasan", 2, false, &["frame", "host"]),
    rule("layers", 2, false, &["frame", "host"]),
    rule("host", 1, false, &["frame", "kcoll"]),
    rule("frame", 0, false, &["kcoll"]),
    rule("kcoll", 0, false, &[]),
];

/// What the simulated machine may use; it is in the workspace for tests alone.
const SIM_MAY_USE: &[&str] = &["frame", "host", "kcoll", "layers"];

/// What `cargo metadata` says about the workspace.
pub(crate) fn metadata() -> Result<Value> {
    let mut cargo = proc::host_cargo();
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let text = proc::read(&mut cargo).context("`cargo metadata` failed")?;
    Ok(serde_json::from_str(&text)?)
}

pub(crate) fn check(metadata: &Value) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        check_package(package, &mut complaints);
    }
    complaints
}

fn check_package(package: &Value, complaints: &mut Vec<Complaint>) {
    let full_name = package["name"].as_str().unwrap_or_default();
    let name = short(full_name);
    let mut complain = |what: String| complaints.push(Complaint::new(full_name, what));
    let floor = &package["metadata"]["kmm"]["floor"];
    let rule = RULES.iter().find(|rule| rule.name == name);
    match (rule, floor.as_u64(), floor.as_str()) {
        (Some(rule), Some(floor), _) if floor == rule.floor => {}
        (Some(rule), ..) => complain(format!(
            "its manifest must say `[package.metadata.kmm] floor = {}`",
            rule.floor
        )),
        (None, _, Some("test" | "kernel" | "tool")) => {}
        (None, ..) => complain(
            "no floor: add it to the table in xtask/src/tidy/floors.rs, or say floor = \"test\""
                .to_owned(),
        ),
    }
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let other = dependency["name"].as_str().unwrap_or_default();
        if !other.starts_with("kmm") {
            continue;
        }
        let dev = dependency["kind"].as_str() == Some("dev");
        if let Some(why) = forbidden(rule, name, floor, short(other), dev) {
            complain(format!("may not depend on {other}: {why}"));
        }
        if other == "kmm-sim" && dependency["req"].as_str() != Some("*") {
            complain("kmm-sim is a dev-dependency by path and has no version, so that packages can leave it out".to_owned());
        }
    }
}

fn forbidden(
    rule: Option<&Rule>,
    name: &str,
    floor: &Value,
    other: &str,
    dev: bool,
) -> Option<String> {
    if other == "kernel" || other == "tests" {
        return Some("nothing depends on the kernel or the tests".to_owned());
    }
    if other == "sim" {
        let free = dev || floor.as_str() == Some("test");
        return (!free).then(|| "sim is a dev-dependency only".to_owned());
    }
    if name == "sim" && !dev {
        return (!SIM_MAY_USE.contains(&other))
            .then(|| format!("it may use {}", SIM_MAY_USE.join(", ")));
    }
    let rule = rule?;
    let allowed = rule.also.contains(&other) || (rule.lower && LOWER.contains(&other));
    (!allowed).then(|| {
        format!(
            "floor {} may use {}{}",
            rule.floor,
            if rule.lower { "floors 0-4, " } else { "" },
            rule.also.join(", ")
        )
    })
}

fn short(name: &str) -> &str {
    name.strip_prefix("kmm-").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(name: &str, floor: &Value, dependencies: &Value) -> Vec<String> {
        let package = json!({ "name": name, "metadata": { "kmm": { "floor": floor } }, "dependencies": dependencies });
        check(&json!({ "packages": [package] }))
            .into_iter()
            .map(|complaint| complaint.what)
            .collect()
    }

    #[test]
    fn edges_down_are_fine() {
        let dependencies = json!([
            { "name": "kmm-frame", "kind": null, "req": "^0.1" },
            { "name": "kmm-sim", "kind": "dev", "req": "*" },
            { "name": "bitflags", "kind": null, "req": "^2" },
        ]);
        assert!(complaints("kmm-buddy", &json!(2), &dependencies).is_empty());
        assert!(
            complaints(
                "kmm-fault",
                &json!(5),
                &json!([{ "name": "kmm-zone", "kind": null, "req": "^0.1" }])
            )
            .is_empty()
        );
    }

    #[test]
    fn edges_up_and_aside_are_complained_about() {
        let edge = |name: &str| json!([{ "name": name, "kind": null, "req": "^0.1" }]);
        assert_eq!(
            complaints("kmm-buddy", &json!(2), &edge("kmm-zone")).len(),
            1
        );
        assert_eq!(
            complaints("kmm-slub", &json!(4), &edge("kmm-zone")).len(),
            1
        );
        assert_eq!(
            complaints("kmm-vma", &json!(5), &edge("kmm-fault")).len(),
            1
        );
        assert_eq!(complaints("kmm", &json!(6), &edge("kmm-kernel")).len(), 1);
        assert_eq!(
            complaints("kmm-sim", &json!("test"), &edge("kmm-buddy")).len(),
            1
        );
        assert_eq!(
            complaints(
                "kmm-buddy",
                &json!(2),
                &json!([{ "name": "kmm-zone", "kind": "dev", "req": "*" }])
            )
            .len(),
            1
        );
    }

    #[test]
    fn sim_is_for_tests_and_has_no_version() {
        assert_eq!(
            complaints(
                "kmm-zone",
                &json!(3),
                &json!([{ "name": "kmm-sim", "kind": null, "req": "*" }])
            )
            .len(),
            1
        );
        assert_eq!(
            complaints(
                "kmm-zone",
                &json!(3),
                &json!([{ "name": "kmm-sim", "kind": "dev", "req": "^0.1" }])
            )
            .len(),
            1
        );
    }

    #[test]
    fn a_floor_is_stated_and_is_the_right_one() {
        assert_eq!(complaints("kmm-buddy", &json!(3), &json!([])).len(), 1);
        assert_eq!(complaints("kmm-buddy", &Value::Null, &json!([])).len(), 1);
        assert_eq!(complaints("kmm-novelty", &json!(3), &json!([])).len(), 1);
        assert!(complaints("xtask", &json!("tool"), &json!([])).is_empty());
    }
}
