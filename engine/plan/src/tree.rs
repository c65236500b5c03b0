//! A task as the tree that it is: its head, and branches where an operator feeds several others.
//!
//! Which operator feeds another is in the plan only where it is not the one listed before it.

use crate::Task;

/// What is still to be written, the next last.
enum Step {
    Operator(usize),
    Text(&'static str),
}

impl Task {
    /// Places of the operators that each operator feeds, in order. Law: every place but 0 is in it
    /// once, and under a lower one (checked for plans that were read: Q4).
    fn fed(&self) -> Vec<Vec<usize>> {
        let mut fed = vec![Vec::new(); self.operators.len()];
        for (place, operator) in self.operators.iter().enumerate().skip(1) {
            let feeds = |id| self.operators[..place].iter().position(|o| o.id == id);
            fed[operator.upstream.and_then(feeds).unwrap_or(place - 1)].push(place);
        }
        fed
    }

    /// The names of its operators: `a -> b`, and `a -> (b -> c, d)` where `a` feeds two.
    pub(crate) fn chain_name(&self) -> String {
        let fed = self.fed();
        let mut name = String::new();
        let mut steps = vec![Step::Operator(0)];
        while let Some(step) = steps.pop() {
            let place = match step {
                Step::Operator(place) => place,
                Step::Text(text) => {
                    name.push_str(text);
                    continue;
                }
            };
            name.push_str(&self.operators[place].name);
            let (open, close) = if fed[place].len() > 1 { (" -> (", ")") } else { (" -> ", "") };
            for (nth, &next) in fed[place].iter().enumerate().rev() {
                let after = if nth + 1 == fed[place].len() { close } else { ", " };
                steps.extend([Step::Text(after), Step::Operator(next)]);
            }
            if !fed[place].is_empty() {
                name.push_str(open);
            }
        }
        name
    }

    /// The names of its operators as lines of a picture, each with the number of branches that it is
    /// within: a branch stands whole before the next one begins.
    pub(crate) fn lines(&self) -> Vec<(usize, &str)> {
        let fed = self.fed();
        let mut lines = Vec::new();
        let mut next = vec![(0, 0)];
        while let Some((place, depth)) = next.pop() {
            lines.push((depth, self.operators[place].name.as_str()));
            let deeper = depth + usize::from(fed[place].len() > 1);
            next.extend(fed[place].iter().rev().map(|&place| (place, deeper)));
        }
        lines
    }
}
