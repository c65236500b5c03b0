//! Every way in which a graph or a plan can be wrong, and that the message helps.

use tidemill_plan::{
    Edge, LogicalGraph, OperatorIndex, OperatorKind as Kind, OperatorSpec, PhysicalPlan, PlanError,
};

use crate::graphs;

fn graph(kinds: &[Kind]) -> (LogicalGraph, Vec<OperatorIndex>) {
    let mut g = LogicalGraph::new("J").with_parallelism(2);
    let add = |(i, &kind): (usize, &Kind)| g.add_operator(OperatorSpec::new(format!("o{i}"), kind));
    let indices = kinds.iter().enumerate().map(add).collect();
    (g, indices)
}

fn message(g: &LogicalGraph) -> String {
    g.plan().unwrap_err().to_string()
}

#[test]
fn source_and_sink_are_needed() {
    let (g, _) = graph(&[]);
    assert_eq!(message(&g), "job \"J\" has no source; start with `add_source`");
    let (g, _) = graph(&[Kind::Source]);
    assert!(matches!(g.plan(), Err(PlanError::NoSink { .. })));
    let (g, _) = graph(&[Kind::Sink]);
    assert!(matches!(g.plan(), Err(PlanError::NoSource { .. })));
}

#[test]
fn a_cycle_is_named() {
    let (mut g, o) = graph(&[Kind::Source, Kind::Union, Kind::Map, Kind::Sink, Kind::Map]);
    g.connect(Edge::forward(o[0], o[1]));
    g.connect(Edge::forward(o[1], o[2]));
    g.connect(Edge::forward(o[2], o[1]));
    g.connect(Edge::forward(o[2], o[4]));
    g.connect(Edge::forward(o[4], o[3]));
    let message = message(&g);
    assert!(
        message.contains(
            "map \"o2\" (operator 2) -> union \"o1\" (operator 1) -> map \"o2\" (operator 2)"
        ) || message.contains(
            "union \"o1\" (operator 1) -> map \"o2\" (operator 2) -> union \"o1\" (operator 1)"
        ),
        "{message}"
    );
    assert!(!message.contains("o4"), "only what is on the cycle: {message}");
}

#[test]
fn an_operator_that_feeds_itself_is_a_cycle() {
    let (mut g, o) = graph(&[Kind::Source, Kind::Union, Kind::Sink]);
    g.connect(Edge::forward(o[0], o[1]));
    g.connect(Edge::rebalance(o[1], o[1]));
    g.connect(Edge::forward(o[1], o[2]));
    let path = "union \"o1\" (operator 1) -> union \"o1\" (operator 1)".to_owned();
    assert_eq!(g.plan(), Err(PlanError::Cycle { path }));
}

#[test]
fn parallelism_has_bounds() {
    for (parallelism, fine) in [(0, false), (1, true), (128, true), (129, false)] {
        let mut g = graphs::word_count();
        g.set_parallelism(parallelism);
        assert_eq!(g.plan().is_ok(), fine, "{parallelism}");
    }
    let mut g = graphs::word_count();
    g.operator_mut(g.edges()[1].to).unwrap().parallelism = Some(129);
    assert_eq!(
        message(&g),
        "window \"count\" (operator 2) has parallelism 129; choose 1 to 128 (the job's max_parallelism)"
    );
    for max in [0, 1 << 16] {
        let g = graphs::word_count().with_max_parallelism(max);
        assert!(matches!(g.plan(), Err(PlanError::MaxParallelism { .. })), "{max}");
    }
}

#[test]
fn forward_needs_equal_parallelism() {
    let (mut g, o) = graph(&[Kind::Source, Kind::Sink]);
    g.connect(Edge::forward(o[0], o[1]));
    g.operator_mut(o[1]).unwrap().parallelism = Some(1);
    assert_eq!(
        message(&g),
        "source \"o0\" (operator 0) (parallelism 2) forwards to sink \"o1\" (operator 1) (parallelism 1), \
         which needs equal parallelism; call `rebalance()` between them or make them equal"
    );
}

#[test]
fn streams_have_two_ends() {
    let (mut g, o) = graph(&[Kind::Source, Kind::Sink, Kind::Map]);
    g.connect(Edge::forward(o[0], o[1]));
    assert!(matches!(g.plan(), Err(PlanError::MissingInput { input: 0, .. })));
    g.connect(Edge::forward(o[0], o[2]));
    let message = message(&g);
    assert!(message.starts_with("nobody reads the stream that map \"o2\" (operator 2) makes"));

    let (mut g, o) = graph(&[Kind::Source, Kind::Join, Kind::Sink]);
    g.connect(Edge::hash(o[0], o[1]));
    g.connect(Edge::forward(o[1], o[2]));
    assert!(matches!(g.plan(), Err(PlanError::MissingInput { input: 1, .. })));
    g.connect(Edge::hash(o[0], o[1]).input(2));
    assert!(matches!(g.plan(), Err(PlanError::NoSuchInput { input: 2, inputs: 2, .. })));
}

#[test]
fn edges_go_from_non_sinks_to_non_sources_of_this_graph() {
    let (mut g, o) = graph(&[Kind::Source, Kind::Sink, Kind::Sink]);
    g.connect(Edge::forward(o[1], o[2]));
    assert!(matches!(g.plan(), Err(PlanError::AfterSink { .. })));
    let (mut g, o) = graph(&[Kind::Source, Kind::Sink]);
    g.connect(Edge::forward(o[0], o[0]));
    assert!(matches!(g.plan(), Err(PlanError::NoSuchInput { inputs: 0, .. })));
    let (mut g, o) = graph(&[Kind::Source, Kind::Sink]);
    let (_, more) = graph(&[Kind::Source, Kind::Map, Kind::Sink]);
    g.connect(Edge::forward(o[0], more[2]));
    assert!(matches!(g.plan(), Err(PlanError::NoSuchOperator { index: 2, count: 2, .. })));
}

#[test]
fn only_what_fits_is_fused() {
    let bad = |g: &LogicalGraph| matches!(g.plan(), Err(PlanError::BadChain { .. }));
    let mut g = graphs::word_count();
    let hash = Edge { chained: true, ..g.edges()[1] };
    g.connect(hash);
    assert!(bad(&g), "hashed");
    let (mut g, o) = graph(&[Kind::Source, Kind::Source, Kind::Map, Kind::Sink]);
    g.connect(Edge::chained(o[0], o[2]));
    g.connect(Edge::forward(o[1], o[2]));
    g.connect(Edge::forward(o[2], o[3]));
    assert!(bad(&g), "two streams into one");
    let (mut g, o) = graph(&[Kind::Source, Kind::Source, Kind::Join, Kind::Sink]);
    g.connect(Edge::chained(o[0], o[2]));
    g.connect(Edge::forward(o[1], o[2]).input(1));
    g.connect(Edge::forward(o[2], o[3]));
    assert!(bad(&g), "two inputs");
}

#[test]
fn uids_are_checked() {
    let with = |uid: &str| {
        let mut g = graphs::word_count();
        g.operator_mut(g.edges()[0].to).unwrap().uid = Some(uid.to_owned());
        g.plan().map(|_| ())
    };
    assert_eq!(
        with("count").unwrap_err().to_string(),
        "uid \"count\" is given to flat_map \"split\" (operator 1) and to window \"count\" (operator 2); \
         a uid names the state of one operator: change one"
    );
    for uid in ["", "auto:x", "a\nb", &"x".repeat(256)] {
        assert!(matches!(with(uid), Err(PlanError::BadUid { .. })), "{uid:?}");
    }
    assert_eq!(with(&"x".repeat(255)), Ok(()));
}

#[test]
fn long_names_are_refused_and_not_quoted_whole() {
    let mut g = graphs::word_count();
    g.operator_mut(g.edges()[0].to).unwrap().name = "n".repeat(256);
    let message = message(&g);
    assert!(message.contains("256 bytes long") && message.len() < 160, "{message}");
}

/// Damages the JSON of a good plan and expects the message to say what is wrong.
#[test]
fn damaged_plans_are_refused() {
    let json = graphs::join().plan().unwrap().to_json();
    let cases = [
        ("\"partitioning\": \"hash\"", "\"partitioning\": \"hush\"", "hush"),
        ("\"from\": 0", "\"from\": 9", "no such tasks"),
        ("\"from\": 1", "\"from\": 4", "goes backwards"),
        ("\"input\": 1", "\"input\": 2", "input 2"),
        ("\"input\": 1", "\"input\": 0", "input 1"),
        ("\"max_parallelism\": 16", "\"max_parallelism\": 2", "choose 1 to 2"),
        ("\"uid\": \"bids\"", "\"uid\": \"bods\"", "not its uid's"),
        ("\"kind\": \"side_output\"", "\"kind\": \"join\"", "can only head"),
        ("\"kind\": \"sink\"", "\"kind\": \"map\"", "no sink"),
        (
            "\"parallelism\": 3,\n      \"operators\"",
            "\"parallelism\": 0,\n      \"operators\"",
            "0",
        ),
        ("\"id\": 2", "\"id\": 3", "has id 3"),
        ("\"job\": \"Join\",", "", "missing field `job`"),
    ];
    for (good, bad, expected) in cases {
        let damaged = json.replace(good, bad);
        assert_ne!(damaged, json, "{good} is in the plan");
        let error = PhysicalPlan::from_json(&damaged).unwrap_err().to_string();
        assert!(error.contains(expected), "{bad}: {error}");
    }
}

#[test]
fn fields_may_be_added() {
    let plan = graphs::join().plan().unwrap();
    let json = plan.to_json().replacen('{', "{\"added\": [1],", 1);
    assert_eq!(PhysicalPlan::from_json(&json), Ok(plan));
}
