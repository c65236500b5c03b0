//! The plan as a mermaid flowchart.
//!
//! Invariants
//!   R1  A name reaches the text only through `escape`, which leaves letters, digits, spaces and a few
//!       harmless signs and writes everything else as `#<code point>;`: no name can end its label.

use std::fmt::Write;

use crate::PhysicalPlan;

impl PhysicalPlan {
    /// The plan as a mermaid flowchart: one box a task, its operators in lines (what
    /// is within a branch behind a `>`), edges with their
    /// partitioning (and input, where it is not 0).
    pub fn to_mermaid(&self) -> String {
        let job = escape(self.job());
        let mut text = format!("flowchart LR\n  subgraph job [\"{job}\"]\n  direction LR\n");
        for task in self.tasks() {
            let line = |(depth, name): (usize, &str)| "#62; ".repeat(depth) + &escape(name);
            let lines: Vec<_> = task.lines().into_iter().map(line).collect();
            let label = format!("{}<br/>parallelism {}", lines.join("<br/>"), task.parallelism);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  t{}[\"{label}\"]", task.id);
        }
        for edge in self.edges() {
            let input = if edge.input == 0 { String::new() } else { format!(" {}", edge.input) };
            let _ =
                writeln!(text, "  t{} -- {}{input} --> t{}", edge.from, edge.partitioning, edge.to);
        }
        text.push_str("  end\n");
        text
    }
}

/// R1.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | '_' | ',' | '/') {
            text.push(c);
        } else if c.is_control() {
            text.push(' ');
        } else {
            let _ = write!(text, "#{};", u32::from(c));
        }
    }
    text
}
