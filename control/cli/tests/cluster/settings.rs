//! Settings and the command line, as a user meets them.

use crate::process::tidemill;

fn fails(words: &[&str], file: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = tidemill();
    command.args(words).args(["--set", &format!("data_dir={}", dir.path().display())]);
    if let Some(text) = file {
        let path = dir.path().join("tidemill.toml");
        std::fs::write(&path, text).unwrap();
        command.arg("--config").arg(path);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
    said
}

#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    let said = fails(&["local"], Some("[jobmanager]\nplan_timeot = \"5s\"\n"));
    assert!(
        said.contains("tidemill.toml:2: ") && said.contains("jobmanager.plan_timeout"),
        "{said}"
    );
    let said = fails(&["jobmanager", "--bind", "0.0.0.0"], None);
    assert!(said.contains("security.token_file") && said.contains("security.insecure"), "{said}");
    let said = fails(&["jobmanager", "--set", "jobmanager.heartbeat_timeout=100ms"], None);
    assert!(said.contains("heartbeat"), "{said}");
    let said = fails(&["taskmanager"], None);
    assert!(said.contains("cluster.secret") && said.contains("TIDEMILL_SECRET"), "{said}");
    let said = fails(&["local", "--log", "tidemill=loud"], None);
    assert!(said.contains("--log"), "{said}");
    let said = fails(&["local", "--set", "taskmanager.worker_user=no such user"], None);
    assert!(said.contains("no such user"), "{said}");
    let said = fails(&["local", "--set", "metadata.location=mysql://db"], None);
    assert!(said.contains("postgres://"), "{said}");
}

#[test]
fn a_cluster_that_is_not_there_is_said_to_be() {
    let output = tidemill().args(["jobs", "--address", "http://127.0.0.1:9"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("127.0.0.1:9") && said.contains("TIDEMILL_ADDRESS"), "{said}");
}

#[test]
fn several_addresses_are_taken_by_flags_the_environment_and_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["jobmanager", "--port", "0", "--control-port", "0"];
    let mut server = crate::process::Server::start(&words, &dir.path().join("data"));
    let address = server.said("REST at ");
    let away = "http://127.0.0.1:9";
    let file = dir.path().join("tidemill.toml");
    std::fs::write(&file, format!("address = [\"{away}\", \"{address}\"]\n")).unwrap();
    let both = format!("{away},{address}");
    let good = |what: &str, command: &mut std::process::Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    };
    good("flags", tidemill().args(["jobs", "--address", away, "--address", &address]));
    good("one flag", tidemill().args(["jobs", "--address", &both]));
    good("variable", tidemill().arg("jobs").env("TIDEMILL_ADDRESS", &both));
    good("file", tidemill().args(["jobs", "--config"]).arg(&file));
    good("set", tidemill().args(["jobs", "--set", &format!("address={both}")]));
    let none = tidemill().args(["jobs", "--address", away, "--address", "127.0.0.1:10"]).output();
    let none = none.unwrap();
    let said = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(5), "{said}");
    assert!(said.contains("127.0.0.1:9/") && said.contains("127.0.0.1:10/"), "{said}");
}

#[test]
fn a_token_is_wanted_and_given_by_file_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let token = token.display().to_string();
    let words = ["jobmanager", "--port", "0", "--control-port", "0", "--token-file", &token];
    let mut server = crate::process::Server::start(&words, &dir.path().join("data"));
    let address = server.said("REST at ");
    let ask = |more: &[&str], variable: Option<&str>| {
        let mut command = tidemill();
        command.args(["jobs", "--address", &address]).args(more);
        command.envs(variable.map(|token| ("TIDEMILL_TOKEN", token)));
        command.output().unwrap()
    };
    let without = ask(&[], None);
    assert_eq!(without.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&without.stderr).contains("TIDEMILL_TOKEN"));
    assert_eq!(ask(&[], Some("wrong")).status.code(), Some(4));
    assert!(ask(&[], Some("s3cret")).status.success());
    assert!(ask(&["--token-file", &token], None).status.success());
}

#[test]
fn help_and_version_are_printed() {
    let out = |words: &[&str]| {
        let output = tidemill().args(words).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(out(&["--version"]).starts_with(concat!("tidemill ", env!("CARGO_PKG_VERSION"))));
    let help = out(&["--help"]);
    for command in ["local", "jobmanager", "taskmanager", "submit", "stop", "rescale", "logs"] {
        assert!(help.contains(command), "{command}");
        assert!(out(&[command, "--help"]).contains("--config"), "{command}");
    }
    assert!(out(&["local", "--help"]).contains("--taskmanagers"));
}
