//! Jobs without state.

use super::Parts;
use crate::source::Input;
use tidemill::Env;

/// source -> map -> filter -> rebalance -> map -> sink
pub(super) fn rebalance(parts: &Parts<'_>, env: &Env) {
    parts
        .source(env, 0)
        .map(|e| (e.split, e.key, e.seq, e.value * 3))
        .filter(|e| e.3 % 2 == 0)
        .rebalance()
        .map(|e| format!("{}/{}/{}: {}", e.0, e.1, e.2, e.3))
        .add_sink(parts.ledger.sink(0))
        .uid("sink 0");
}

pub(super) fn rebalance_oracle(input: &Input) -> Vec<String> {
    input
        .events()
        .map(|e| (e, e.value * 3))
        .filter(|(_, value)| value % 2 == 0)
        .map(|(e, value)| format!("{}/{}/{}: {value}", e.split, e.key, e.seq))
        .collect()
}
