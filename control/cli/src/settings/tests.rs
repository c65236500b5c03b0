//! Layers, and that the table is whole.

use super::*;

fn load(
    file: Option<&str>,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, String> {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = file.map(|text| {
        let path = dir.path().join("t.toml");
        std::fs::write(&path, text).expect("write");
        path
    });
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    let given = Given {
        config,
        environment: variables.iter().map(pair).collect(),
        flags: flags.iter().map(|(k, v)| ((*k).into(), (*v).into(), "--set".into())).collect(),
        search: Vec::new(),
    };
    Settings::load(&given).map_err(|e| e.to_string())
}

#[test]
fn later_layers_go_before_earlier_ones() {
    let port = |s: &Settings| s.number::<u16>("jobmanager.rest_port");
    let none = load(None, &[], &[]).expect("defaults");
    assert_eq!(port(&none), 8081);
    assert!(!none.is_given("jobmanager.rest_port"));
    let file = Some("[jobmanager]\nrest_port = 1\n");
    assert_eq!(port(&load(file, &[], &[]).expect("file")), 1);
    let variable = [("TIDEMILL_JOBMANAGER_REST_PORT", "2")];
    assert_eq!(port(&load(file, &variable, &[]).expect("variable")), 2);
    let flag = [("jobmanager.rest_port", "3")];
    let all = load(file, &variable, &flag).expect("flag");
    assert_eq!(port(&all), 3);
    assert_eq!(all.origin("jobmanager.rest_port"), Origin::Flag("--set".into()));
}

#[test]
fn what_is_wrong_is_an_error_even_where_it_is_overridden() {
    let error =
        load(Some("[jobmanager]\nrest_port = 70000\n"), &[], &[("jobmanager.rest_port", "3")]);
    let error = error.expect_err("C2");
    assert!(error.contains(":2: jobmanager.rest_port = 70000"), "{error}");
    let error = load(None, &[("TIDEMILL_CHECKPOINTS_INTERVAL", "5")], &[]).expect_err("no unit");
    assert!(error.contains("variable TIDEMILL_CHECKPOINTS_INTERVAL"), "{error}");
    assert!(error.contains("= 5:") && error.contains("e.g. 10s"), "{error}");
    let error = load(None, &[], &[("jobmanager.restport", "3")]).expect_err("C1");
    assert!(error.contains("the nearest is jobmanager.rest_port"), "{error}");
}

#[test]
fn foreign_variables_are_let_be_and_misspelt_ones_are_named() {
    let variables = [
        ("TIDEMILL_SERVICE_HOST", "10.0.0.1"),
        ("TIDEMILL_PORT", "tcp://10.0.0.1:8081"),
        ("TIDEMILL_JOBMANAGER_PORT_8081_TCP", "tcp://10.0.0.1:8081"),
        ("TIDEMILL_TOKEN", "t"),
        ("TIDEMILL_TASKMANAGER_SLOT", "3"),
    ];
    let settings = load(None, &variables, &[]).expect("no error");
    assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
    assert!(settings.warnings[0].contains("TIDEMILL_TASKMANAGER_SLOTS"), "{:?}", settings.warnings);
}

#[test]
fn relative_paths_of_a_file_begin_beside_it() {
    let settings = load(Some("data_dir = \"data\"\n"), &[], &[]).expect("good");
    let path = settings.path("data_dir").expect("given");
    assert!(path.is_absolute() && path.ends_with("data"), "{path:?}");
    assert_ne!(path, absolute("data"));
}

#[test]
fn the_table_is_whole() {
    let mut keys = std::collections::BTreeSet::new();
    for s in TABLE {
        assert!(keys.insert(s.key), "{} comes twice", s.key);
        let section = s.key.split_once('.').map_or("", |(section, _)| section);
        assert!(table::SECTIONS.iter().any(|(known, _)| *known == section), "{}", s.key);
        assert!(!s.meaning.is_empty() && !s.meaning.ends_with('.'), "{}", s.key);
        assert!(!s.sample().is_empty(), "{}: give a default or an example", s.key);
        s.kind.read(s.sample()).unwrap_or_else(|e| panic!("{}: {e}", s.key));
        assert!(!(s.default.is_empty() && s.note.is_empty()), "{}: what holds without it?", s.key);
        let file = match s.key.split_once('.') {
            Some((section, key)) => format!("[{section}]\n{key} = {}\n", sample(s)),
            None => format!("{} = {}\n", s.key, sample(s)),
        };
        let settings = load(Some(&file), &[], &[]).unwrap_or_else(|e| panic!("{e}"));
        assert!(settings.is_given(s.key), "{file}");
    }
    for command in [table::Command::JobManager, table::Command::TaskManager, table::Command::Local]
    {
        let mut flags = std::collections::BTreeSet::new();
        let used = TABLE.iter().filter(|s| s.used.contains(&command) && !s.flag.is_empty());
        used.for_each(|s| assert!(flags.insert(s.flag), "{command:?}: --{} comes twice", s.flag));
    }
}

#[test]
fn what_is_shown_is_read_back() {
    let before = load(None, &[], &[("taskmanager.log_size", "3 MiB")]).expect("good");
    for (key, value, _) in before.shown() {
        let file = match key.split_once('.') {
            Some((section, key)) => format!("[{section}]\n{key} = {value}\n"),
            None => format!("{key} = {value}\n"),
        };
        let after = load(Some(&file), &[], &[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(after.get(key), before.get(key), "{file}");
    }
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/configuration.md is not what the table says; write it anew: \
         cargo run -p tidemill-cli -- config --docs > docs/configuration.md"
    );
}
