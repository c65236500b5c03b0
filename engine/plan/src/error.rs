//! Why a graph cannot be planned or a plan cannot be read. Every one is the user's to correct, before
//! anything runs; retrying does not help.

use thiserror::Error;

/// What is wrong with a graph or a plan. Operators are named `kind "name" (operator N)`, where N counts
/// in the order in which the program added them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// No operator reads anything.
    #[error("job {job:?} has no source; start with `add_source`")]
    NoSource {
        /// The job's name.
        job: String,
    },
    /// No operator writes anything.
    #[error(
        "job {job:?} has no sink, so it would compute nothing that anybody sees; end a stream with `add_sink`"
    )]
    NoSink {
        /// The job's name.
        job: String,
    },
    /// More operators than a job may have.
    #[error("job {job:?} has {count} operators; the most is {limit}: split the job")]
    TooManyOperators {
        /// The job's name.
        job: String,
        /// What was seen.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More edges than a job may have.
    #[error(
        "job {job:?} has {count} streams between operators; the most is {limit}: split the job"
    )]
    TooManyEdges {
        /// The job's name.
        job: String,
        /// What was seen.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A name that is too long.
    #[error("the name of {what} is {bytes} bytes long; the most is {limit}: shorten it")]
    LongName {
        /// The job, or the operator with the beginning of its name.
        what: String,
        /// What was seen.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A parallelism of 0, or above the number of key groups.
    #[error(
        "{what} has parallelism {parallelism}; choose 1 to {max_parallelism} (the job's max_parallelism)"
    )]
    Parallelism {
        /// Whose.
        what: String,
        /// What was seen.
        parallelism: u32,
        /// The upper bound.
        max_parallelism: u32,
    },
    /// A number of key groups out of bounds.
    #[error("max_parallelism is {max_parallelism}; choose 1 to {limit}")]
    MaxParallelism {
        /// What was seen.
        max_parallelism: u32,
        /// The upper bound.
        limit: u32,
    },
    /// A subtask that does not exist.
    #[error("there is no subtask {subtask} at parallelism {parallelism}; choose 0 to {}", parallelism.saturating_sub(1))]
    Subtask {
        /// What was seen.
        subtask: u32,
        /// The number of subtasks.
        parallelism: u32,
    },
    /// Records could go round for ever.
    #[error(
        "the operators form a cycle: {path}; a job is acyclic: break it, for example through an external topic"
    )]
    Cycle {
        /// `a -> b -> a`.
        path: String,
    },
    /// A forward edge between different numbers of subtasks.
    #[error(
        "{from} (parallelism {from_parallelism}) forwards to {to} (parallelism {to_parallelism}), which needs equal parallelism; call `rebalance()` between them or make them equal"
    )]
    ForwardMismatch {
        /// The sender.
        from: String,
        /// Its parallelism.
        from_parallelism: u32,
        /// The receiver.
        to: String,
        /// Its parallelism.
        to_parallelism: u32,
    },
    /// A stream that nobody reads.
    #[error(
        "nobody reads the stream that {operator} makes; add a sink (`.add_sink(DiscardSink)` drops it on purpose) or remove it"
    )]
    DanglingStream {
        /// The operator.
        operator: String,
    },
    /// An input that no stream feeds.
    #[error("no stream feeds input {input} of {operator}; connect one")]
    MissingInput {
        /// The operator.
        operator: String,
        /// The input, from 0.
        input: u32,
    },
    /// An input that the operator does not have.
    #[error("a stream feeds input {input} of {operator}, which has {inputs}; inputs count from 0")]
    NoSuchInput {
        /// The operator.
        operator: String,
        /// What was seen.
        input: u32,
        /// How many it has.
        inputs: u32,
    },
    /// A stream that starts at a sink.
    #[error(
        "a stream starts at {operator}; a sink has no output: read the stream before it instead"
    )]
    AfterSink {
        /// The sink.
        operator: String,
    },
    /// An edge that names an operator of another graph.
    #[error(
        "an edge names operator {index} but job {job:?} has {count}; use streams of one `Env` only"
    )]
    NoSuchOperator {
        /// What was seen.
        index: usize,
        /// The job's name.
        job: String,
        /// How many operators there are.
        count: usize,
    },
    /// Two operators with one uid.
    #[error(
        "uid {uid:?} is given to {first} and to {second}; a uid names the state of one operator: change one"
    )]
    DuplicateUid {
        /// The uid.
        uid: String,
        /// Who had it first.
        first: String,
        /// Who has it too.
        second: String,
    },
    /// Two uids with one hash.
    #[error("uids {first:?} and {second:?} hash to the same operator id {id}; change one of them")]
    UidCollision {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// Their hash.
        id: String,
    },
    /// A uid that cannot be used.
    #[error("uid {uid:?} of {operator} {why}")]
    BadUid {
        /// The operator.
        operator: String,
        /// What was seen.
        uid: String,
        /// What is wrong and what to do.
        why: &'static str,
    },
    /// An edge marked as fused that cannot be.
    #[error("{from} cannot be fused with {to}: {why}")]
    BadChain {
        /// The sender.
        from: String,
        /// The receiver.
        to: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A plan whose parts do not fit together.
    #[error("the plan contradicts itself: {why}")]
    Inconsistent {
        /// What and where.
        why: String,
    },
    /// A plan that is not of the documented shape.
    #[error(
        "the job graph cannot be read: {why}; make it anew with the job's own program and the argument `plan`"
    )]
    Malformed {
        /// Where and what.
        why: String,
    },
}
