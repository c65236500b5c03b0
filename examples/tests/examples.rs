//! Each example on its sample data: exactly this output.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod program;

use program::example;

/// Runs an example and returns its lines; sorted, because subtasks print side by side.
fn lines(name: &str, flags: &[&str]) -> Vec<String> {
    let output = example(name).args(flags).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} ended with {}:\n{errors}", output.status);
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The same at any parallelism.
fn check(name: &str, want: &[&str]) {
    for flags in [&["--quiet"][..], &["--quiet", "--parallelism", "1"], &["--parallelism", "3"]] {
        assert_eq!(lines(name, flags), want, "{name} {flags:?}");
    }
}

#[test]
fn word_count() {
    check(
        "word_count",
        &["0 -- 7", "0 a 7", "0 and 6", "0 that 13", "0 the 9", "0 to 8", "0 we 8"],
    );
}

#[test]
fn error_filter() {
    check(
        "error_filter",
        &[
            "2026-03-01T09:00:05Z ERROR payment 8812: card declined",
            "2026-03-01T09:00:09Z INFO  retry after error: upstream timed out",
            "2026-03-01T09:00:13Z FATAL IoError: disk full",
        ],
    );
}

#[test]
fn category_counter() {
    check(
        "category_counter",
        &[
            r#"{"category":"books","window_start":0,"count":3}"#,
            r#"{"category":"books","window_start":30000,"count":1}"#,
            r#"{"category":"books","window_start":60000,"count":1}"#,
            r#"{"category":"games","window_start":0,"count":2}"#,
            r#"{"category":"games","window_start":90000,"count":1}"#,
            r#"{"category":"music","window_start":30000,"count":3}"#,
        ],
    );
}

#[test]
fn anomaly_detector() {
    check(
        "anomaly_detector",
        &[
            r#"{"sensor":"boiler","time":2000,"value":104.25,"message":"4.2 above the limit"}"#,
            r#"{"sensor":"pump","time":4400,"value":101.0,"message":"1.0 above the limit"}"#,
            r#"{"sensor":"valve","time":4000,"value":250.0,"message":"150.0 above the limit"}"#,
        ],
    );
}

#[test]
fn running_average() {
    check(
        "running_average",
        &[
            "boiler 81.500",
            "boiler 87.583",
            "boiler 92.875",
            "pump 100.000",
            "pump 100.300",
            "pump 99.950",
            "valve 250.000",
        ],
    );
}

#[test]
fn sessions() {
    check(
        "sessions",
        &[
            "ann: 1 clicks from 24000 to 24000 ms",
            "ann: 2 clicks from 9700 to 10600 ms",
            "ann: 3 clicks from 1000 to 4000 ms",
            "ben: 1 clicks from 1500 to 1500 ms",
            "ben: 1 clicks from 25500 to 25500 ms",
            "ben: 2 clicks from 8000 to 9800 ms",
            "cat: 3 clicks from 12000 to 19999 ms",
        ],
    );
}

#[test]
fn late_data() {
    // At a higher parallelism a subtask without a split may hold the first watermarks back.
    let want = [
        "ann: 1 clicks from 10000 ms",
        "ann: 1 clicks from 20000 ms",
        "ann: 4 clicks from 0 ms",
        "ben: 1 clicks from 20000 ms",
        "ben: 2 clicks from 0 ms",
        "ben: too late, item at 8000 ms",
        "cat: 2 clicks from 10000 ms",
        "cat: too late, item at 19999 ms",
    ];
    assert_eq!(lines("late_data", &["--quiet"]), want);
}

#[test]
fn fraud_detection() {
    check(
        "fraud_detection",
        &["card 1: 70000 cents at 30000 ms", "card 4: 50001 cents at 130000 ms"],
    );
}

#[test]
fn plans_are_printed() {
    let plan = lines("word_count", &["plan", "--format", "mermaid"]).join("\n");
    assert!(plan.contains("flowchart") && plan.contains("window sum"), "{plan}");
}

#[test]
fn a_flag_that_does_not_exist_is_refused() {
    let output = example("word_count").args(["--inptu", "x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("did you mean --input?"), "{errors}");
}
