//! Shows the checker graphs that are wrong, one rule at a time: a guard that cannot fail guards nothing.

use super::*;

/// The whole house, where each crate depends on what DESIGN's list allows and jobs need.
fn house() -> Vec<Crate> {
    let arrows: &[(&str, &[&str])] = &[
        ("tidemill-ring", &["tidemill-base", "crossbeam-utils"]),
        ("tidemill-plan", &["tidemill-base"]),
        ("tidemill-keyed", &["tidemill-base", "tidemill-snapshot"]),
        ("tidemill-net", &["tidemill-base"]),
        ("tidemill-runtime", &["tidemill-ring", "tidemill-keyed", "tidemill-net", "glommio"]),
        ("tidemill-connectors", &["tidemill-runtime"]),
        ("tidemill-coordination", &["tidemill-protocol", "tidemill-plan"]),
        ("tidemill", &["tidemill-connectors", "tidemill-coordination"]),
        ("tidemill-jobmanager", &["tidemill-coordination", "tidemill-snapshot"]),
        ("tidemill-cli", &["tidemill-jobmanager", "tidemill-taskmanager"]),
    ];
    let wanted =
        |name: &str| arrows.iter().find(|(from, _)| *from == name).map_or(&[][..], |(_, to)| to);
    ORDER.iter().map(|(name, folder)| member(name, folder, wanted(name))).collect()
}

fn member(name: &str, folder: &str, dependencies: &[&str]) -> Crate {
    Crate {
        name: name.to_owned(),
        folder: folder.to_owned(),
        dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The ids of what the checker finds once `from` also depends on `to`.
fn with_arrow(from: &str, to: &str) -> Vec<&'static str> {
    let mut crates = house();
    let subject = crates.iter_mut().find(|known| known.name == from).unwrap();
    subject.dependencies.push(to.to_owned());
    ids(&crates)
}

fn ids(crates: &[Crate]) -> Vec<&'static str> {
    check(crates).iter().map(|violation| violation.invariant).collect()
}

#[test]
fn the_designed_house_stands() {
    assert_eq!(check(&house()), []);
}

#[test]
fn a1_every_crate_has_its_place() {
    let mut crates = house();
    crates.push(member("tidemill-sim", "tests/sim", &["tidemill", "tidemill-runtime"]));
    crates.push(member("tidemill-examples", "examples", &["tidemill"]));
    assert_eq!(check(&crates), []);

    crates.push(member("tidemill-utils", "engine/utils", &[]));
    assert_eq!(ids(&crates), ["A1"]);
    crates.pop();
    crates.push(member("tidemill-benches", "tests-of-speed", &[]));
    assert_eq!(ids(&crates), ["A1"], "a folder counts by its whole name");
    crates.pop();
    crates[0].folder = "base".into();
    assert_eq!(ids(&crates), ["A1"]);
}

#[test]
fn a2_arrows_point_to_earlier_crates_only() {
    for (own, (from, _)) in ORDER.iter().enumerate() {
        for (to, _) in &ORDER[own..] {
            assert!(with_arrow(from, to).contains(&"A2"), "{from} -> {to} was not found");
        }
    }
}

#[test]
fn a2_nothing_in_the_house_depends_on_tests() {
    let mut crates = house();
    crates.push(member("tidemill-sim", "tests/sim", &[]));
    crates[3].dependencies.push("tidemill-sim".into());
    let found = check(&crates);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].invariant, "A2");
    assert!(found[0].message.contains("tidemill-plan depends on tidemill-sim"), "{}", found[0]);
}

#[test]
fn a3_net_and_state_never_know_each_other() {
    assert_eq!(with_arrow("tidemill-net", "tidemill-snapshot"), ["A3"]);
    assert_eq!(with_arrow("tidemill-net", "tidemill-keyed"), ["A3", "A3"]);
    assert!(with_arrow("tidemill-keyed", "tidemill-net").contains(&"A3"));
    assert!(with_arrow("tidemill-plan", "tidemill-net").contains(&"A2"));
}

#[test]
fn a3_sees_through_a_third_crate() {
    let mut crates = house();
    crates.push(member("tidemill-pages", "tests/pages", &["tidemill-snapshot"]));
    let net = crates.iter_mut().find(|known| known.name == NET).unwrap();
    net.dependencies.push("tidemill-pages".into());
    assert_eq!(ids(&crates), ["A2", "A3"]);
}

#[test]
fn a4_the_job_manager_never_reaches_the_runtime() {
    assert_eq!(with_arrow("tidemill-jobmanager", "tidemill-runtime"), ["A4"]);
    assert_eq!(with_arrow("tidemill-jobmanager", "tidemill"), ["A4"], "through the api");
    assert_eq!(with_arrow("tidemill-coordination", "tidemill-connectors"), ["A4"]);
    assert_eq!(with_arrow("tidemill-taskmanager", "tidemill-runtime"), [""; 0]);
}

#[test]
fn a5_only_the_runtime_knows_the_executor() {
    assert_eq!(with_arrow("tidemill", "glommio"), ["A5"]);
    let mut crates = house();
    crates.push(member("tidemill-sim", "tests/sim", &["glommio"]));
    assert_eq!(ids(&crates), ["A5"]);
}

#[test]
fn a_cycle_ends() {
    let crates = [
        member(JOB_MANAGER, "control/jobmanager", &["tidemill-cli"]),
        member("tidemill-cli", "control/cli", &[JOB_MANAGER]),
    ];
    assert_eq!(ids(&crates), ["A2"]);
}
