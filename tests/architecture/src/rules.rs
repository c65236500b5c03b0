//! The arrows between crates. Pure: it judges the crates that it is shown.
//!
//! Invariants
//!   A1  A crate of the house stands in [`ORDER`], at its folder; others live below one of [`OUTSIDE`].
//!   A2  A crate of the house depends only on crates that stand before it in [`ORDER`].
//!   A3  `net` and `state` never know each other, not even through a third crate.
//!   A4  The job manager holds no operator code: it never reaches the runtime.
//!   A5  Only the runtime depends on glommio, so that it can be replaced there.
//!
//! Normal and build dependencies count; a test may point anywhere.

use crate::graph::Crate;
use std::collections::BTreeSet;
use std::fmt;

/// The crates of the house and their folders, from the foundation up.
pub const ORDER: &[(&str, &str)] = &[
    ("tidemill-base", "engine/base"),
    ("tidemill-macros", "engine/macros"),
    ("tidemill-ring", "engine/ring"),
    ("tidemill-plan", "engine/plan"),
    ("tidemill-snapshot", "state/snapshot"),
    ("tidemill-keyed", "state/keyed"),
    (NET, "net"),
    (RUNTIME, "engine/runtime"),
    ("tidemill-connectors", "connectors"),
    ("tidemill-protocol", "control/protocol"),
    ("tidemill-coordination", "control/coordination"),
    ("tidemill", "engine/api"),
    (JOB_MANAGER, "control/jobmanager"),
    ("tidemill-taskmanager", "control/taskmanager"),
    ("tidemill-cli", "control/cli"),
];

/// Folders of crates that nobody in the house depends on, and that may depend on all of it.
pub const OUTSIDE: &[&str] = &["tests", "benches", "examples"];

const NET: &str = "tidemill-net";
const RUNTIME: &str = "tidemill-runtime";
const JOB_MANAGER: &str = "tidemill-jobmanager";
const STATE: &[&str] = &["tidemill-snapshot", "tidemill-keyed"];
const EXECUTOR: &str = "glommio";

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's id in this file's header, such as `A2`.
    pub invariant: &'static str,
    /// The crates concerned, and the remedy.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.message)
    }
}

/// Every violation in a workspace; none in one that is well built.
#[must_use]
pub fn check(crates: &[Crate]) -> Vec<Violation> {
    let mut found = Vec::new();
    for subject in crates {
        check_place(subject, &mut found);
        check_arrows(subject, crates, &mut found);
        check_reach(subject, crates, &mut found);
        check_executor(subject, &mut found);
    }
    found
}

fn rank(name: &str) -> Option<usize> {
    ORDER.iter().position(|(known, _)| *known == name)
}

fn report(found: &mut Vec<Violation>, invariant: &'static str, message: String) {
    found.push(Violation { invariant, message });
}

fn check_place(subject: &Crate, found: &mut Vec<Violation>) {
    let Crate { name, folder, .. } = subject;
    match rank(name) {
        Some(at) if ORDER[at].1 != folder => {
            report(found, "A1", format!("{name} lies in {folder}, its place is {}", ORDER[at].1));
        }
        None if !OUTSIDE.contains(&folder.split('/').next().unwrap_or_default()) => {
            report(found, "A1", format!("{name} in {folder} has no place in ORDER: give it one"));
        }
        _ => {}
    }
}

fn check_arrows(subject: &Crate, crates: &[Crate], found: &mut Vec<Violation>) {
    let Some(own) = rank(&subject.name) else {
        return;
    };
    for target in &subject.dependencies {
        let name = &subject.name;
        match rank(target) {
            Some(other) if other < own => {}
            Some(_) => report(
                found,
                "A2",
                format!(
                    "{name} depends on {target}, which does not stand before it: \
                     move what it wants into a crate below both"
                ),
            ),
            None if crates.iter().any(|known| known.name == *target) => report(
                found,
                "A2",
                format!("{name} depends on {target}, which is outside the house"),
            ),
            None => {}
        }
    }
}

fn check_reach(subject: &Crate, crates: &[Crate], found: &mut Vec<Violation>) {
    let forbidden: (&str, &[&str]) = match subject.name.as_str() {
        NET => ("A3", STATE),
        JOB_MANAGER => ("A4", &[RUNTIME]),
        name if STATE.contains(&name) => ("A3", &[NET]),
        _ => return,
    };
    let reached = reach(&subject.name, crates);
    for target in forbidden.1.iter().filter(|target| reached.contains(**target)) {
        report(
            found,
            forbidden.0,
            format!("{} must never reach {target}, not even through another crate", subject.name),
        );
    }
}

fn check_executor(subject: &Crate, found: &mut Vec<Violation>) {
    if subject.name != RUNTIME && subject.dependencies.iter().any(|name| name == EXECUTOR) {
        report(
            found,
            "A5",
            format!("{} depends on {EXECUTOR}: only {RUNTIME} may know the executor", subject.name),
        );
    }
}

/// Names of the crates of the workspace that `start` depends on, at any distance.
fn reach<'a>(start: &str, crates: &'a [Crate]) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(name) = open.pop() {
        let Some(known) = crates.iter().find(|known| known.name == name) else {
            continue;
        };
        for target in &known.dependencies {
            if reached.insert(target.as_str()) {
                open.push(target);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests;
