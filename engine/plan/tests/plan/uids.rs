//! Operator ids: what changes them and what does not.

use std::collections::HashMap;

use tidemill_plan::{
    Edge, LogicalGraph, OperatorId, OperatorKind as Kind, OperatorSpec, Partitioning,
};

use crate::graphs;

fn ids(g: &LogicalGraph) -> HashMap<String, OperatorId> {
    g.plan().unwrap().operators().map(|o| (o.name.clone(), o.id)).collect()
}

#[test]
fn the_hash_is_fixed_forever() {
    assert_eq!(OperatorId::of_uid("").to_string(), "efd01f60ba992926");
    assert_eq!(OperatorId::of_uid("count").to_string(), "17dacd223e4d716d");
    let id = OperatorId::of_uid("count");
    assert_eq!(id.to_string().parse(), Ok(id));
    for bad in ["", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcdef0"] {
        assert!(bad.parse::<OperatorId>().is_err(), "{bad}");
    }
}

#[test]
fn an_id_is_the_hash_of_its_uid() {
    for operator in graphs::join().plan().unwrap().operators() {
        assert_eq!(operator.id, OperatorId::of_uid(&operator.uid));
        assert_eq!(operator.has_user_uid(), !operator.uid.starts_with("auto:"));
    }
}

#[test]
fn unrelated_changes_keep_derived_ids() {
    let before = ids(&graphs::word_count());
    let mut g = graphs::word_count();
    g.set_parallelism(7);
    let mut unchained = LogicalGraph::new("Other").with_parallelism(2);
    // A branch that is added first shifts every index.
    let extra = unchained.add_operator(OperatorSpec::new("extra", Kind::Source));
    let indices: Vec<_> =
        g.operators().iter().map(|spec| unchained.add_operator(spec.clone())).collect();
    let drain = unchained.add_operator(OperatorSpec::new("drain", Kind::Sink));
    unchained.connect(Edge::forward(extra, drain));
    for pair in indices.windows(2) {
        unchained.connect(Edge::new(pair[0], pair[1], Partitioning::Rebalance));
    }
    for after in [ids(&g), ids(&unchained)] {
        for (name, id) in &before {
            assert_eq!(after[name], *id, "{name}");
        }
    }
}

#[test]
fn a_rename_changes_what_follows_up_to_the_next_uid() {
    let before = ids(&graphs::word_count());
    let mut g = graphs::word_count();
    let split = g.edges()[0].to;
    g.operator_mut(split).unwrap().name = "cut".to_owned();
    let after = ids(&g);
    assert_ne!(after["cut"], before["split"]);
    for name in ["file", "count", "often", "files"] {
        assert_eq!(after[name], before[name], "{name} is or follows an operator with a uid");
    }

    let mut g = graphs::word_count();
    let file = g.edges()[0].from;
    g.operator_mut(file).unwrap().uid = Some("lines".to_owned());
    assert_ne!(ids(&g)["split"], before["split"], "the path above it changed");
}

#[test]
fn twins_differ_in_order_of_addition() {
    let twins = |third: bool| {
        let mut g = LogicalGraph::new("J");
        let source = g.add_operator(OperatorSpec::new("s", Kind::Source));
        for _ in 0..2 + usize::from(third) {
            let sink = g.add_operator(OperatorSpec::new("out", Kind::Sink));
            g.connect(Edge::rebalance(source, sink));
        }
        g.plan().unwrap().operators().map(|o| o.id).collect::<Vec<_>>()
    };
    let (two, three) = (twins(false), twins(true));
    assert_ne!(two[1], two[2]);
    assert_eq!(two[..], three[..3], "a third twin leaves the first two alone");
}

#[test]
fn swapped_inputs_differ() {
    let joined = |swap: bool| {
        let mut g = LogicalGraph::new("J");
        let a = g.add_operator(OperatorSpec::new("a", Kind::Source));
        let b = g.add_operator(OperatorSpec::new("b", Kind::Source));
        let join = g.add_operator(OperatorSpec::new("join", Kind::Join));
        let out = g.add_operator(OperatorSpec::new("out", Kind::Sink));
        g.connect(Edge::hash(a, join).input(u32::from(swap)));
        g.connect(Edge::hash(b, join).input(u32::from(!swap)));
        g.connect(Edge::forward(join, out));
        ids(&g)["join"]
    };
    assert_ne!(joined(false), joined(true));
    assert_eq!(joined(true), joined(true));
}

#[test]
fn ids_by_order_of_addition_are_those_of_the_plan() {
    let g = graphs::join();
    let by_name = ids(&g);
    let in_order: Vec<_> = g.operators().iter().map(|o| by_name[&o.name]).collect();
    assert_eq!(g.operator_ids(), Ok(in_order));
    assert!(LogicalGraph::new("empty").operator_ids().is_err());
}
