//! The documented JSON (its shape: physical.rs).

use crate::PhysicalPlan;

impl PhysicalPlan {
    /// The plan as indented JSON with a final newline. Law: `from_json(to_json(p)) == p`.
    pub fn to_json(&self) -> String {
        // Strings and numbers only: nothing in a plan can fail to serialize.
        let mut json = serde_json::to_string_pretty(self).unwrap_or_default();
        json.push('\n');
        json
    }
}
