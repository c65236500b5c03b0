//! The plan as a graphviz digraph.
//!
//! Invariants
//!   R2  A name reaches the text only through `escape`, within a quoted string: quotes and backslashes
//!       are escaped (so no `\N` or `\G` is expanded), `&` cannot start an entity, control characters
//!       become spaces.

use std::fmt::Write;

use crate::PhysicalPlan;

impl PhysicalPlan {
    /// The plan as a graphviz digraph: one box a task, its operators in lines (what
    /// is within a branch behind a `>`), edges with their
    /// partitioning (and input, where it is not 0).
    pub fn to_dot(&self) -> String {
        let name = escape(self.job());
        let mut text = format!("digraph \"{name}\" {{\n  rankdir=LR;\n  node [shape=box];\n");
        for task in self.tasks() {
            let line = |(depth, name): (usize, &str)| "> ".repeat(depth) + &escape(name);
            let lines: Vec<_> = task.lines().into_iter().map(line).collect();
            let label = format!("{}\\nparallelism {}", lines.join("\\n"), task.parallelism);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  t{} [label=\"{label}\"];", task.id);
        }
        for edge in self.edges() {
            let input = if edge.input == 0 { String::new() } else { format!(" {}", edge.input) };
            let label = format!("{}{input}", edge.partitioning);
            let _ = writeln!(text, "  t{} -> t{} [label=\"{label}\"];", edge.from, edge.to);
        }
        text.push_str("}\n");
        text
    }
}

/// R2.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '&' => text.push_str("&amp;"),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text
}
