//! The three renderings, letter by letter. `BLESS=1 cargo test -p tidemill-plan` rewrites the files.

use std::path::Path;

use tidemill_plan::{LogicalGraph, PhysicalPlan};

use crate::graphs;

fn same(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(golden, actual, "{file} differs; if that is meant, run with BLESS=1");
}

fn renders_as(name: &str, graph: &LogicalGraph) {
    let plan = graph.plan().unwrap();
    same(&format!("{name}.json"), &plan.to_json());
    same(&format!("{name}.mmd"), &plan.to_mermaid());
    same(&format!("{name}.dot"), &plan.to_dot());
    assert_eq!(PhysicalPlan::from_json(&plan.to_json()).unwrap(), plan);
}

#[test]
fn word_count() {
    renders_as("word_count", &graphs::word_count());
}

#[test]
fn join() {
    renders_as("join", &graphs::join());
}

#[test]
fn shared() {
    renders_as("shared", &graphs::shared());
}

#[test]
fn an_operator_is_fed_by_one_that_stands_before_it() {
    let json = graphs::shared().plan().unwrap().to_json();
    let id = |name: &str| {
        let plan = PhysicalPlan::from_json(&json).unwrap();
        plan.operators().find(|o| o.name == name).unwrap().id.to_string()
    };
    let valid = format!("\"upstream\": \"{}\"", id("valid"));
    assert_eq!(json.matches(&valid).count(), 2, "the first reader stands behind it\n{json}");
    for other in [id("counts"), id("archive"), "0".repeat(16)] {
        let damaged = json.replace(&valid, &format!("\"upstream\": \"{other}\""));
        let error = PhysicalPlan::from_json(&damaged).unwrap_err().to_string();
        assert!(error.contains("does not stand before it"), "{error}");
    }
}

#[test]
fn hostile_names() {
    renders_as("hostile", &graphs::hostile());
}

#[test]
fn hostile_names_add_no_statement() {
    let plan = graphs::hostile().plan().unwrap();
    // 3 lines of frame, a box for each task, one edge, `end`.
    assert_eq!(plan.to_mermaid().lines().count(), 3 + plan.tasks().len() + 1 + 1);
    assert_eq!(plan.to_dot().lines().count(), 3 + plan.tasks().len() + 1 + 1);
    for line in plan.to_mermaid().lines() {
        assert!(line.matches('"').count() % 2 == 0 && line.matches('"').count() <= 2, "{line}");
    }
    for line in plan.to_dot().lines() {
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert!(matches!(bare.matches('"').count(), 0 | 2), "{line}");
    }
}
