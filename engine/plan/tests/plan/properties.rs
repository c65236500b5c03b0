//! Random graphs and random parallelisms against naive oracles.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidemill_plan::{
    Edge, LogicalGraph, OperatorKind as Kind, OperatorSpec, Partitioning, PhysicalPlan,
    key_group_range, owner_of, redistribute,
};

proptest! {
    /// G1, G2, G3.
    #[test]
    fn ranges_cover_all_key_groups_once(max in 1_u32..=2048, p in 1_u32..=2048) {
        prop_assume!(p <= max);
        let mut owners = Vec::new();
        for subtask in 0..p {
            let range = key_group_range(subtask, p, max);
            prop_assert_eq!(range.start as usize, owners.len());
            prop_assert!(range.len() as u32 == max / p || range.len() as u32 == max.div_ceil(p));
            owners.extend(range.map(|_| subtask));
        }
        prop_assert_eq!(owners.len() as u32, max);
        for (key_group, owner) in (0..max).zip(owners) {
            prop_assert_eq!(owner_of(key_group, p, max), owner);
        }
    }

    /// G4, against a map of every key group to its old and its new owner.
    #[test]
    fn redistribution_moves_each_key_group_once(
        max in 1_u32..=512, old in 1_u32..=512, new in 1_u32..=512,
    ) {
        prop_assume!(old <= max && new <= max);
        let mut expected: BTreeMap<(u32, u32), BTreeSet<u32>> = BTreeMap::new();
        for key_group in 0..max {
            let owners = (owner_of(key_group, new, max), owner_of(key_group, old, max));
            expected.entry(owners).or_default().insert(key_group);
        }
        let mut actual = BTreeMap::new();
        for subtask in 0..new {
            for share in redistribute(old, new, max, subtask).unwrap() {
                let groups: BTreeSet<_> = share.key_groups.collect();
                prop_assert!(actual.insert((subtask, share.old_subtask), groups).is_none());
            }
        }
        prop_assert_eq!(actual, expected);
    }

    #[test]
    fn redistribution_refuses_what_does_not_fit(old in 0_u32..6, new in 0_u32..6, subtask in 0_u32..6) {
        let fits = (1..=4).contains(&old) && (1..=4).contains(&new) && subtask < new;
        prop_assert_eq!(redistribute(old, new, 4, subtask).is_ok(), fits);
    }

    #[test]
    fn plans_are_sound(graph in random_graphs()) {
        let plan = graph.plan().unwrap();
        prop_assert_eq!(&plan, &graph.plan().unwrap(), "the same graph gives the same plan");
        // Tasks are the components that chained edges connect.
        let count = graph.operators().len();
        let chained = graph.edges().iter().filter(|e| e.chained).count();
        prop_assert_eq!(plan.operators().count(), count);
        prop_assert_eq!(plan.tasks().len(), count - chained, "each chained edge joins two trees");
        prop_assert_eq!(plan.edges().len(), graph.edges().len() - chained);
        for (place, task) in plan.tasks().iter().enumerate() {
            prop_assert_eq!(task.id.index(), place);
        }
        for edge in plan.edges() {
            prop_assert!(edge.from < edge.to);
        }
        for task in plan.tasks().iter().filter(|t| t.operators.iter().all(|o| o.upstream.is_none())) {
            let names: Vec<&str> = task.operators.iter().map(|o| o.name.as_str()).collect();
            prop_assert_eq!(&task.name, &names.join(" -> "), "a chain");
        }
        // Names are unique here, so they tell which operator is where.
        let task_of: BTreeMap<&str, _> = plan.tasks().iter()
            .flat_map(|t| t.operators.iter().map(move |o| (o.name.as_str(), t)))
            .collect();
        for edge in graph.edges() {
            let name = |i| graph.operator(i).unwrap().name.as_str();
            let (from, to) = (task_of[name(edge.from)], task_of[name(edge.to)]);
            prop_assert_eq!(from.id == to.id, edge.chained);
            if edge.chained {
                let place = |n| from.operators.iter().position(|o| o.name == n);
                prop_assert!(place(name(edge.from)) < place(name(edge.to)));
                let at = place(name(edge.to)).unwrap();
                let before = from.operators[at - 1].id;
                let upstream = from.operators[at].upstream.unwrap_or(before);
                prop_assert_eq!(upstream, from.operators[place(name(edge.from)).unwrap()].id);
            } else {
                prop_assert_eq!(&to.head().name, name(edge.to));
                let wanted = |e: &&tidemill_plan::TaskEdge| {
                    (e.from, e.to, e.input, e.partitioning)
                        == (from.id, to.id, edge.input, edge.partitioning)
                };
                let found = plan.edges().iter().find(wanted);
                prop_assert!(found.is_some());
            }
        }
        let most = graph.operators().iter().map(|o| o.parallelism.unwrap_or(4)).max();
        prop_assert_eq!(Some(plan.slots()), most);
        let by_slot: usize = (0..plan.slots()).map(|s| plan.subtasks_in_slot(s).count()).sum();
        prop_assert_eq!(by_slot, plan.subtasks().count());
    }

    #[test]
    fn json_round_trips(graph in random_graphs()) {
        let plan = graph.plan().unwrap();
        prop_assert_eq!(PhysicalPlan::from_json(&plan.to_json()), Ok(plan));
    }

    /// Whatever is read is either refused or sound enough to be walked and written again.
    #[test]
    fn damaged_json_never_panics(
        graph in random_graphs(), at in any::<prop::sample::Index>(), byte in b' '..=b'~', cut in any::<bool>(),
    ) {
        let mut json = graph.plan().unwrap().to_json().into_bytes();
        let at = at.index(json.len());
        if cut { json.remove(at); } else { json[at] = byte; }
        let Ok(text) = String::from_utf8(json) else { return Ok(()) };
        if let Ok(plan) = PhysicalPlan::from_json(&text) {
            for id in plan.subtasks() {
                prop_assert!(plan.key_groups(id.task, id.subtask).is_some());
            }
            prop_assert_eq!(PhysicalPlan::from_json(&plan.to_json()), Ok(plan));
        }
    }
}

/// A step that adds one operator: its kind, who feeds it, its parallelism, how, and whether fused.
type Step = (prop::sample::Index, [prop::sample::Index; 2], Option<u32>, u8, bool, String);

fn random_graphs() -> impl Strategy<Value = LogicalGraph> {
    let step = (
        any::<prop::sample::Index>(),
        any::<[prop::sample::Index; 2]>(),
        prop::option::of(1_u32..=6),
        any::<u8>(),
        any::<bool>(),
        "[ -~\u{e9}\n]{0,6}",
    );
    (1_usize..4, prop::collection::vec(step, 0..12))
        .prop_map(|(sources, steps)| build(sources, steps))
}

fn build(sources: usize, steps: Vec<Step>) -> LogicalGraph {
    let mut g = LogicalGraph::new("random").with_parallelism(4);
    let mut open: Vec<_> = (0..sources)
        .map(|i| g.add_operator(OperatorSpec::new(format!("source {i}"), Kind::Source)))
        .collect();
    let mut read = BTreeSet::new();
    for (i, (kind, feeds, parallelism, how, chained, name)) in steps.into_iter().enumerate() {
        let kind = Kind::ALL[1 + kind.index(Kind::ALL.len() - 2)];
        let mut spec = OperatorSpec::new(format!("{i} {name}"), kind);
        spec.parallelism = parallelism;
        let to = g.add_operator(spec);
        for input in 0..kind.inputs() {
            let from = *feeds[input as usize].get(&open);
            read.insert(from);
            let parallelism_of = |i| g.operator(i).unwrap().parallelism.unwrap_or(4);
            let equal = parallelism_of(from) == parallelism_of(to);
            let edge = match how % 4 {
                0 if equal => {
                    Edge { chained: chained && kind.inputs() == 1, ..Edge::forward(from, to) }
                }
                1 => Edge::hash(from, to),
                2 => Edge::broadcast(from, to),
                _ => Edge::new(from, to, Partitioning::Rebalance),
            };
            g.connect(edge.input(input));
        }
        open.push(to);
    }
    for (i, from) in open.into_iter().enumerate() {
        if !read.contains(&from) {
            let sink = g.add_operator(OperatorSpec::new(format!("sink {i}"), Kind::Sink));
            g.connect(Edge::rebalance(from, sink));
        }
    }
    g
}
