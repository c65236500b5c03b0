//! What becomes of streams with several readers: one task, whose operators keep their ids.

use crate::Env;
use crate::connectors::DiscardSink;
use std::collections::BTreeSet;
use tidemill_plan::{Edge, LogicalGraph, OperatorKind as Kind, OperatorSpec, Partitioning};
use tidemill_runtime::deploy::{DeployOptions, JobPlan, deploy};

fn clicks(env: &Env) -> crate::Stream<u64, impl crate::pipe::Pipe<Out = u64> + use<>> {
    env.from_vec(vec![1u64]).name("clicks")
}

#[test]
fn readers_of_a_shared_stream_are_in_its_task_and_keep_their_ids() {
    let env = Env::new("shared").parallelism(2);
    let shared = clicks(&env).shared();
    shared.stream().key_by::<u64, _>(|page| *page).count().add_sink(DiscardSink).name("counts");
    let pages = shared.stream().map(|page| page).shared();
    pages.stream().rebalance().add_sink(DiscardSink).name("log");
    pages.stream().add_sink(DiscardSink).name("pages");
    let (plan, job) = env.graph.finish().expect("a plan");
    let names: Vec<&str> = plan.tasks().iter().map(|t| t.name.as_str()).collect();
    let tree = "clicks -> (read, read -> map -> (read, read -> pages))";
    assert_eq!(names, [tree, "count -> counts", "rebalance -> log"]);
    assert!(plan.edges().iter().all(|e| e.partitioning != Partitioning::Forward));
    let deployed: Vec<&str> = job.tasks.iter().map(|t| &*t.name).collect();
    assert_eq!(deployed, names);
    assert_eq!(job.edges.iter().map(|e| (e.from, e.to)).collect::<Vec<_>>(), [(0, 1), (0, 2)]);

    // As it was when readers were tasks of their own: state in checkpoints is found again.
    let mut before = LogicalGraph::new("shared").with_parallelism(2);
    let mut add = |name: &str, kind| before.add_operator(OperatorSpec::new(name, kind));
    let source = add("clicks", Kind::Source);
    let [one, two, three, four] = [1, 2, 3, 4].map(|_| add("read", Kind::Union));
    let (count, counts) = (add("count", Kind::Reduce), add("counts", Kind::Sink));
    let (map, pages) = (add("map", Kind::Map), add("pages", Kind::Sink));
    let (rebalance, log) = (add("rebalance", Kind::Union), add("log", Kind::Sink));
    for (from, to) in [(source, one), (source, two), (map, three), (map, four)] {
        before.connect(Edge::forward(from, to));
    }
    for (from, to) in [(count, counts), (two, map), (four, pages), (rebalance, log)] {
        before.connect(Edge::chained(from, to));
    }
    before.connect(Edge::hash(one, count));
    before.connect(Edge::rebalance(three, rebalance));
    let ids = |plan: &tidemill_plan::PhysicalPlan| -> BTreeSet<_> {
        plan.operators().map(|o| o.id).collect()
    };
    assert_eq!(ids(&plan), ids(&before.plan().expect("a plan")));
}

#[test]
fn readers_of_a_side_output_are_in_the_task_of_its_operator() {
    let env = Env::new("sides").parallelism(2);
    let odd = env.output_tag::<u64>("odd");
    let tag = odd.clone();
    let even = clicks(&env)
        .rebalance()
        .parallelism(3)
        .process::<u64, _>(move |page, cx| cx.side(&tag, page))
        .side_output(&odd);
    // The side output first: its readers stand in a task that is not closed yet.
    odd.stream(&env).key_by::<u64, _>(|page| *page).count().add_sink(DiscardSink).name("odd");
    odd.stream(&env).map(|page| page + 1).add_sink(DiscardSink).name("next");
    even.add_sink(DiscardSink).name("even");
    let (plan, job) = env.graph.finish().expect("a plan");
    let names: Vec<&str> = plan.tasks().iter().map(|t| t.name.as_str()).collect();
    let tree = "rebalance -> process -> (read, read -> map -> next, even)";
    assert_eq!(names, ["clicks", tree, "count -> odd"]);
    assert!(job.edges.iter().all(|e| e.from < e.to), "upstream tasks come first");
    assert_eq!(plan.tasks()[1].parallelism, 3);
}

#[test]
fn a_stream_without_end_is_named_although_its_side_output_is_read() {
    let env = Env::new("loose");
    let odd = env.output_tag::<u64>("odd");
    let tag = odd.clone();
    let even = clicks(&env)
        .process::<u64, _>(move |page, cx| cx.side(&tag, page))
        .name("sort out")
        .side_output(&odd);
    odd.stream(&env).add_sink(DiscardSink);
    drop(even);
    assert_leads_nowhere(&env, "sort out");
}

fn assert_leads_nowhere(env: &Env, name: &str) {
    let error = env.graph.finish().map(|_| ()).expect_err("no plan").to_string();
    assert!(error.contains(&format!("behind '{name}' leads nowhere")), "{error}");
}

/// A branch that is not closed is not built, and neither is what hangs on it: `read` closes a branch
/// of the side output of its last operator.
fn assert_an_open_branch_is_named(read: impl FnOnce(&Env, &crate::OutputTag<u64>)) {
    let env = Env::new("loose");
    let odd = env.output_tag::<u64>("odd");
    let tag = odd.clone();
    let shared = clicks(&env).shared();
    shared.stream().add_sink(DiscardSink);
    let even = shared
        .stream()
        .map(|page| page)
        .process::<u64, _>(move |page, cx| cx.side(&tag, page))
        .name("sort out")
        .side_output(&odd);
    read(&env, &odd);
    drop(even);
    assert_leads_nowhere(&env, "sort out");
}

#[test]
fn a_branch_without_end_is_named_although_its_side_output_goes_to_a_sink() {
    assert_an_open_branch_is_named(|env, odd| {
        odd.stream(env).add_sink(DiscardSink);
    });
}

#[test]
fn a_branch_without_end_is_named_although_its_side_output_goes_to_other_tasks() {
    assert_an_open_branch_is_named(|env, odd| {
        odd.stream(env).rebalance().add_sink(DiscardSink);
        odd.stream(env).key_by::<u64, _>(|page| *page).count().add_sink(DiscardSink);
    });
}

#[test]
fn a_task_with_an_output_that_nothing_writes_to_is_not_built() {
    let env = Env::new("net").parallelism(1);
    clicks(&env).rebalance().add_sink(DiscardSink);
    let (_, mut plan) = env.graph.finish().expect("a plan");
    let errors = |plan: &JobPlan| -> Vec<String> {
        let slots = deploy(plan, &[tidemill_ring::Doorbell::new()], &DeployOptions::default())
            .expect("slots");
        let built = slots.into_iter().flatten().map(|blueprint| blueprint.build());
        built.filter_map(|built| Some(built.err()?.to_string())).collect()
    };
    assert_eq!(errors(&plan), [""; 0]);
    plan.edges.push(plan.edges[0]);
    let errors = errors(&plan);
    let wanted = "without what writes to edge 1, behind 'clicks'";
    assert!(matches!(&errors[..], [one] if one.contains(wanted)), "{errors:?}");
}
