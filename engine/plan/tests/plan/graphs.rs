//! Graphs that several tests use.

use tidemill_plan::{Edge, LogicalGraph, OperatorKind as Kind, OperatorSpec};

/// file -> split | hash | count -> filter -> sink, at parallelism 4.
pub(crate) fn word_count() -> LogicalGraph {
    let mut g = LogicalGraph::new("WordCount").with_parallelism(4);
    let file = g.add_operator(OperatorSpec::new("file", Kind::Source).uid("file").stateful());
    let split = g.add_operator(OperatorSpec::new("split", Kind::FlatMap));
    let count = g.add_operator(OperatorSpec::new("count", Kind::Window).uid("count").stateful());
    let often = g.add_operator(OperatorSpec::new("often", Kind::Filter));
    let sink = g.add_operator(OperatorSpec::new("files", Kind::Sink).uid("files").stateful());
    g.connect(Edge::chained(file, split));
    g.connect(Edge::hash(split, count));
    g.connect(Edge::chained(count, often));
    g.connect(Edge::chained(often, sink));
    g
}

/// Two sources joined, a side output, a rebalanced sink of parallelism 1, a broadcast, a chain that forks.
pub(crate) fn join() -> LogicalGraph {
    let mut g = LogicalGraph::new("Join").with_parallelism(3).with_max_parallelism(16);
    let bids = g.add_operator(OperatorSpec::new("bids", Kind::Source).uid("bids").stateful());
    let auctions = g.add_operator(OperatorSpec::new("auctions", Kind::Source).uid("auctions"));
    let rules = g.add_operator(OperatorSpec::new("rules", Kind::Source).parallelism(1));
    let check = g.add_operator(OperatorSpec::new("check", Kind::BroadcastProcess).stateful());
    let join = g.add_operator(OperatorSpec::new("join", Kind::Join).uid("join").stateful());
    let late = g.add_operator(OperatorSpec::new("late", Kind::SideOutput));
    let log = g.add_operator(OperatorSpec::new("log", Kind::Sink).parallelism(1));
    let out = g.add_operator(OperatorSpec::new("out", Kind::Sink));
    g.connect(Edge::forward(bids, check));
    g.connect(Edge::broadcast(rules, check).input(1));
    g.connect(Edge::hash(check, join));
    g.connect(Edge::hash(auctions, join).input(1));
    g.connect(Edge::chained(join, late));
    g.connect(Edge::chained(join, out));
    g.connect(Edge::rebalance(late, log));
    g
}

/// A stream with three readers, one of which is read twice itself: one task with a sink, two edges.
pub(crate) fn shared() -> LogicalGraph {
    let mut g = LogicalGraph::new("Shared").with_parallelism(2);
    let add =
        |g: &mut LogicalGraph, name: &str, kind| g.add_operator(OperatorSpec::new(name, kind));
    let clicks = add(&mut g, "clicks", Kind::Source);
    let valid = add(&mut g, "valid", Kind::Filter);
    let [one, two, three] = [1, 2, 3].map(|_| add(&mut g, "read", Kind::Union));
    let page = add(&mut g, "page", Kind::Map);
    let [four, five] = [4, 5].map(|_| add(&mut g, "read", Kind::Union));
    let count = add(&mut g, "count", Kind::Window);
    let [counts, archive, log] = ["counts", "archive", "log"].map(|n| add(&mut g, n, Kind::Sink));
    for (from, to) in [(clicks, valid), (valid, one), (valid, two), (two, page), (valid, three)] {
        g.connect(Edge::chained(from, to));
    }
    for (from, to) in [(page, four), (page, five), (three, archive), (count, counts)] {
        g.connect(Edge::chained(from, to));
    }
    g.connect(Edge::hash(one, count));
    g.connect(Edge::rebalance(five, log));
    g.connect(Edge::hash(four, count));
    g
}

/// Names made to break out of every format.
pub(crate) fn hostile() -> LogicalGraph {
    let mut g = LogicalGraph::new("\"}]; -->\n%% --- \\N </script>");
    let source = g.add_operator(OperatorSpec::new("a\"];\n  evil[\"b", Kind::Source));
    let map = g.add_operator(OperatorSpec::new("\\\" \\N \\G &quot; #quot; `x` <b>", Kind::Map));
    let sink = g.add_operator(OperatorSpec::new("end\u{0}\u{7f}\u{2028}ünï|{}()", Kind::Sink));
    g.connect(Edge::chained(source, map));
    g.connect(Edge::rebalance(map, sink));
    g
}
