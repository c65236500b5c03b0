//! Every setting, once: its key, what it takes, its default, and what it means. The flags, the
//! variables of the environment, the checks of a file, and docs/configuration.md follow from it.
//!
//! Invariants
//!   T1  A setting's variable is `TIDEMILL_` and its key in capitals, dots as underscores.
//!   T2  A default is written as a user would write the value, and is read the same way.
//!   T3  No setting holds a secret: those come from files, or from the variables of [`SECRETS`].

use super::value::Kind;
use Kind::{
    Address, Bool, Choice, Count, CountOr, Duration, DurationOr, HostPorts, Location, Path, Size,
    Text, Texts,
};

/// A setting.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    /// Empty: none; `note` says what then.
    pub(crate) default: &'static str,
    /// What holds where there is no default.
    pub(crate) note: &'static str,
    /// A value as an example for errors and the page, where the default is none.
    pub(crate) example: &'static str,
    /// Its own flag, for the commands of `used`; every setting can be given by `--set` too.
    pub(crate) flag: &'static str,
    pub(crate) used: &'static [Command],
    pub(crate) meaning: &'static str,
}

/// Who uses a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    JobManager,
    TaskManager,
    Local,
    /// Everything that talks to a JobManager.
    Client,
}

use Command::{Client, JobManager, Local, TaskManager};

const ALL: &[Command] = &[JobManager, TaskManager, Local, Client];
const SERVERS: &[Command] = &[JobManager, TaskManager, Local];
const JM: &[Command] = &[JobManager, Local];
const TM: &[Command] = &[TaskManager, Local];

/// Variables that hold secrets themselves, what for, and who reads them.
pub(crate) const SECRETS: &[(&str, &str)] = &[
    (
        "TIDEMILL_SECRET",
        "the cluster secret, instead of `security.secret_file`; for `jobmanager`, `taskmanager`, `local`",
    ),
    (
        "TIDEMILL_TOKEN",
        "the token of REST, instead of `security.token_file`; for `jobmanager`, `local`, and all commands that ask a JobManager",
    ),
];

/// The variable that names the configuration file.
pub(crate) const CONFIG_VARIABLE: &str = "TIDEMILL_CONFIG";

/// The parts of a key before its dot, with a heading for the page.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("", "General"),
    ("security", "Security"),
    ("jobmanager", "JobManager"),
    ("checkpoints", "Checkpoints"),
    ("state", "Keyed state"),
    ("metadata", "Metadata"),
    ("artifacts", "Programs"),
    ("s3", "S3"),
    ("taskmanager", "TaskManager"),
    ("local", "Local cluster"),
];

const NONE: Setting = Setting {
    key: "",
    kind: Text,
    default: "",
    note: "",
    example: "",
    flag: "",
    used: ALL,
    meaning: "",
};

const NATURAL: Kind = Count { min: 1, max: u32::MAX as u64 };
const PORT: Kind = Count { min: 0, max: u16::MAX as u64 };

/// All of them, by section.
pub(crate) const TABLE: &[Setting] = &[
    Setting {
        key: "data_dir",
        kind: Path,
        note: "`/var/lib/tidemill` for root; `$XDG_DATA_HOME/tidemill`, or `~/.local/share/tidemill`, for others",
        example: "/var/lib/tidemill",
        flag: "data-dir",
        used: SERVERS,
        meaning: "Where everything of this process is kept. A JobManager and a TaskManager may share it; two of a kind may not",
        ..NONE
    },
    Setting {
        key: "address",
        kind: Texts,
        default: "http://127.0.0.1:8081",
        flag: "address",
        used: &[Client],
        meaning: "Where the REST interface of each JobManager is; of several, the one that leads is asked: `[\"http://jm1.example.org:8081\", \"http://jm2.example.org:8081\"]`",
        ..NONE
    },
    Setting {
        key: "log",
        kind: Text,
        default: "info",
        example: "info,tidemill_jobmanager=debug",
        flag: "log",
        used: SERVERS,
        meaning: "What is logged to standard error: a level (error, warn, info, debug, trace), or levels by crate",
        ..NONE
    },
    // -- security
    Setting {
        key: "security.token_file",
        kind: Path,
        note: "no token",
        example: "/etc/tidemill/token",
        flag: "token-file",
        used: &[JobManager, Local, Client],
        meaning: "A file with the token that REST wants as `Authorization: Bearer`, and that commands send",
        ..NONE
    },
    Setting {
        key: "security.secret_file",
        kind: Path,
        note: "`cluster.secret` in `data_dir`; `jobmanager` and `local` make it, readable by their user alone, where it is missing",
        example: "/etc/tidemill/secret",
        flag: "secret-file",
        used: SERVERS,
        meaning: "A file with the cluster secret, the same on all hosts. By it JobManagers, TaskManagers and workers know each other; it is never sent",
        ..NONE
    },
    Setting {
        key: "security.insecure",
        kind: Bool,
        default: "false",
        flag: "insecure",
        used: JM,
        meaning: "Serve REST to other machines without a token: whoever reaches it can run programs on the cluster",
        ..NONE
    },
    // -- jobmanager
    Setting {
        key: "jobmanager.bind",
        kind: Address,
        default: "127.0.0.1",
        example: "0.0.0.0",
        flag: "bind",
        used: JM,
        meaning: "The address that REST and the control port listen at. Another than loopback wants a token, or `security.insecure`",
        ..NONE
    },
    Setting {
        key: "jobmanager.rest_port",
        kind: PORT,
        default: "8081",
        flag: "port",
        used: JM,
        meaning: "The port of REST; 0: any free one",
        ..NONE
    },
    Setting {
        key: "jobmanager.control_port",
        kind: PORT,
        default: "6123",
        note: "`local`: any free one unless it is given",
        flag: "control-port",
        used: JM,
        meaning: "The port for TaskManagers and workers; 0: any free one",
        ..NONE
    },
    Setting {
        key: "jobmanager.control_address",
        kind: Text,
        note: "`jobmanager.bind` and the control port; where that is `0.0.0.0`, the host's name and the port",
        example: "jm1.example.org:6123",
        used: JM,
        meaning: "HOST:PORT under which others reach the control port when this JobManager leads",
        ..NONE
    },
    Setting {
        key: "jobmanager.artifact_limit",
        kind: Size,
        default: "512 MiB",
        used: JM,
        meaning: "The largest program that may be submitted",
        ..NONE
    },
    Setting {
        key: "jobmanager.plan_timeout",
        kind: Duration { min_ms: 1 },
        default: "30s",
        used: JM,
        meaning: "How long a program may take to tell its plan",
        ..NONE
    },
    Setting {
        key: "jobmanager.max_parallelism",
        kind: NATURAL,
        default: "32768",
        used: JM,
        meaning: "The highest parallelism that a job may ask for",
        ..NONE
    },
    Setting {
        key: "jobmanager.heartbeat_interval",
        kind: Duration { min_ms: 10 },
        default: "500ms",
        used: JM,
        meaning: "How often TaskManagers and workers say that they live",
        ..NONE
    },
    Setting {
        key: "jobmanager.heartbeat_timeout",
        kind: Duration { min_ms: 20 },
        default: "5s",
        used: JM,
        meaning: "Who is silent for so long counts as lost; at least two heartbeats",
        ..NONE
    },
    Setting {
        key: "jobmanager.reconnect_timeout",
        kind: Duration { min_ms: 0 },
        default: "2s",
        used: JM,
        meaning: "Who does not come back for so long after its connection broke counts as lost",
        ..NONE
    },
    Setting {
        key: "jobmanager.adopt_timeout",
        kind: Duration { min_ms: 0 },
        default: "10s",
        note: "`local`: 0s, because its workers end with it",
        used: JM,
        meaning: "How long a JobManager that was restarted waits for the workers of running jobs, before it restarts the jobs",
        ..NONE
    },
    Setting {
        key: "jobmanager.attach_timeout",
        kind: Duration { min_ms: 1 },
        default: "30s",
        used: JM,
        meaning: "What a worker may take from its start until it has connected; fetching the program is part of it",
        ..NONE
    },
    Setting {
        key: "jobmanager.deploy_timeout",
        kind: Duration { min_ms: 1 },
        default: "10m",
        used: JM,
        meaning: "What all subtasks may take from their deployment until they run; restoring is part of it",
        ..NONE
    },
    Setting {
        key: "jobmanager.stop_timeout",
        kind: Duration { min_ms: 1 },
        default: "5s",
        used: JM,
        meaning: "What a worker may take to stop an attempt, before its process is ended",
        ..NONE
    },
    Setting {
        key: "jobmanager.stop_grace",
        kind: Duration { min_ms: 0 },
        default: "5s",
        used: JM,
        meaning: "What a worker's process gets to end by itself, before it is killed",
        ..NONE
    },
    Setting {
        key: "jobmanager.client_silence",
        kind: Duration { min_ms: 1 },
        default: "20s",
        used: JM,
        meaning: "A REST client that sends nothing for so long is given up",
        ..NONE
    },
    Setting {
        key: "jobmanager.request_timeout",
        kind: Duration { min_ms: 1 },
        default: "10m",
        used: JM,
        meaning: "What a whole REST request may take, an upload included",
        ..NONE
    },
    Setting {
        key: "jobmanager.record_timeout",
        kind: Duration { min_ms: 1 },
        default: "20s",
        used: JM,
        meaning: "How long the metadata store may take to record a new job; then it is not accepted",
        ..NONE
    },
    Setting {
        key: "jobmanager.rest_connections",
        kind: NATURAL,
        default: "512",
        used: JM,
        meaning: "Open REST connections; further ones wait",
        ..NONE
    },
    Setting {
        key: "jobmanager.control_connections",
        kind: NATURAL,
        default: "4096",
        used: JM,
        meaning: "Open connections of TaskManagers and workers; further ones wait",
        ..NONE
    },
    Setting {
        key: "jobmanager.jobs_kept",
        kind: NATURAL,
        default: "1000",
        used: JM,
        meaning: "Jobs that are over and still shown; of more, the oldest are forgotten",
        ..NONE
    },
    // -- checkpoints
    Setting {
        key: "checkpoints.location",
        kind: Location,
        note: "`checkpoints` in `data_dir`",
        example: "s3://bucket/prefix",
        flag: "checkpoints",
        used: JM,
        meaning: "Where checkpoints go: a directory that all hosts share, or `s3://BUCKET/PREFIX`",
        ..NONE
    },
    Setting {
        key: "checkpoints.interval",
        kind: DurationOr("never"),
        default: "10s",
        used: JM,
        meaning: "From one checkpoint's start to the next one's, for jobs that do not say; `never`: none are taken",
        ..NONE
    },
    Setting {
        key: "checkpoints.timeout",
        kind: Duration { min_ms: 1 },
        default: "10m",
        used: JM,
        meaning: "What a checkpoint may take",
        ..NONE
    },
    Setting {
        key: "checkpoints.min_pause",
        kind: Duration { min_ms: 0 },
        default: "0s",
        used: JM,
        meaning: "The least time from one checkpoint's end to the next one's start",
        ..NONE
    },
    Setting {
        key: "checkpoints.tolerated_failures",
        kind: CountOr("any"),
        default: "3",
        used: JM,
        meaning: "How many checkpoints in a row may fail before the job is restarted; `any`: it never is",
        ..NONE
    },
    Setting {
        key: "checkpoints.keep",
        kind: Count { min: 1, max: 1_000 },
        default: "3",
        used: JM,
        meaning: "Complete checkpoints that are kept of a running job; savepoints do not count",
        ..NONE
    },
    // -- state
    Setting {
        key: "state.backend",
        kind: Choice(&["heap", "rocksdb"]),
        default: "heap",
        used: JM,
        meaning: "Where keyed state lives, unless a program is submitted with `--state heap` or `--state rocksdb`; `rocksdb` wants programs that are built with that feature",
        ..NONE
    },
    Setting {
        key: "state.rocksdb_memory",
        kind: Size,
        default: "256 MiB",
        used: JM,
        meaning: "Memory of RocksDB for each slot of a job",
        ..NONE
    },
    // -- metadata
    Setting {
        key: "metadata.location",
        kind: Text,
        default: "embedded",
        example: "postgres://tidemill@db.example.org/tidemill",
        used: JM,
        meaning: "Where jobs are recorded: `embedded`, a file in `data_dir`; or `postgres://USER@HOST:PORT/DATABASE`, which several JobManagers may share",
        ..NONE
    },
    Setting {
        key: "metadata.password_file",
        kind: Path,
        note: "no password",
        example: "/etc/tidemill/postgres-password",
        used: JM,
        meaning: "A file with the password of PostgreSQL",
        ..NONE
    },
    // -- artifacts
    Setting {
        key: "artifacts.location",
        kind: Location,
        note: "`artifacts` in `data_dir`",
        example: "s3://bucket/prefix",
        used: JM,
        meaning: "Where programs are kept while jobs run them: a directory, or `s3://BUCKET/PREFIX`",
        ..NONE
    },
    // -- s3
    Setting {
        key: "s3.endpoint",
        kind: Text,
        note: "AWS",
        example: "http://minio.example.org:9000",
        used: JM,
        meaning: "The server of buckets. Access keys come from the usual variables and files (`AWS_ACCESS_KEY_ID`, `~/.aws/credentials`, ...) of each host",
        ..NONE
    },
    Setting {
        key: "s3.region",
        kind: Text,
        note: "what the host's AWS configuration says",
        example: "eu-central-1",
        used: JM,
        meaning: "The region of the buckets",
        ..NONE
    },
    Setting {
        key: "s3.path_style",
        kind: Bool,
        note: "`true` where a server is named, by `s3.endpoint` or the variables `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL`; `false` for Amazon's",
        example: "false",
        used: JM,
        meaning: "Whether a bucket stands in the path, as MinIO and its like want it, or in the host name; embedded jobs follow the same rule",
        ..NONE
    },
    // -- taskmanager
    Setting {
        key: "taskmanager.jobmanagers",
        kind: HostPorts,
        default: "127.0.0.1:6123",
        note: "`local`: its own",
        example: "jm1.example.org:6123, jm2.example.org:6123",
        flag: "jobmanager",
        used: &[TaskManager],
        meaning: "HOST:PORT of the control port of each JobManager",
    },
    Setting {
        key: "taskmanager.slots",
        kind: Count { min: 1, max: 4_096 },
        default: "4",
        flag: "slots",
        used: TM,
        meaning: "How many slots it offers; a slot is a thread on a CPU of its own while there are enough",
        ..NONE
    },
    Setting {
        key: "taskmanager.first_cpu",
        kind: Count { min: 0, max: 4_096 },
        default: "0",
        note: "`local`: its TaskManagers count on",
        flag: "first-cpu",
        used: TM,
        meaning: "The place, among the CPUs that it may use, of the one that its first slot is pinned to: TaskManagers of one host count on",
        ..NONE
    },
    Setting {
        key: "taskmanager.memory",
        kind: Size,
        note: "80% of what the host, or the control group, has; `local`: that, divided among its TaskManagers",
        example: "8 GiB",
        flag: "memory",
        used: TM,
        meaning: "Memory of its workers together",
        ..NONE
    },
    Setting {
        key: "taskmanager.host",
        kind: Text,
        note: "the host's name",
        example: "rack1-a",
        used: TM,
        meaning: "What it is called in lists",
        ..NONE
    },
    Setting {
        key: "taskmanager.bind",
        kind: Address,
        default: "127.0.0.1",
        example: "0.0.0.0",
        flag: "bind",
        used: &[TaskManager],
        meaning: "The address that its workers listen at for other workers, each at any free port",
        ..NONE
    },
    Setting {
        key: "taskmanager.address",
        kind: Text,
        note: "`taskmanager.bind`; where that is `0.0.0.0`, the address of its connection to the JobManager",
        example: "10.0.0.7",
        flag: "external-address",
        used: &[TaskManager],
        meaning: "Host name or address under which other hosts reach its workers",
        ..NONE
    },
    Setting {
        key: "taskmanager.worker_user",
        kind: Text,
        note: "the TaskManager's own",
        example: "stream",
        flag: "worker-user",
        used: TM,
        meaning: "The user that programs run as: a name, or UID:GID. Only root can choose another than itself",
        ..NONE
    },
    Setting {
        key: "taskmanager.artifact_limit",
        kind: Size,
        default: "1 GiB",
        used: TM,
        meaning: "The largest program that it fetches",
        ..NONE
    },
    Setting {
        key: "taskmanager.cache_size",
        kind: Size,
        default: "4 GiB",
        used: TM,
        meaning: "Programs kept for the next job; those that run are kept beyond",
        ..NONE
    },
    Setting {
        key: "taskmanager.log_size",
        kind: Size,
        default: "16 MiB",
        used: TM,
        meaning: "Logs kept of one worker",
        ..NONE
    },
    Setting {
        key: "taskmanager.log_retention",
        kind: Duration { min_ms: 0 },
        default: "24h",
        used: TM,
        meaning: "How long a job's logs are kept after its end",
        ..NONE
    },
    Setting {
        key: "taskmanager.jobmanager_timeout",
        kind: Duration { min_ms: 100 },
        default: "10s",
        used: TM,
        meaning: "A JobManager that is silent for so long is given up, and looked for again",
        ..NONE
    },
    Setting {
        key: "taskmanager.stop_grace",
        kind: Duration { min_ms: 0 },
        default: "10s",
        used: TM,
        meaning: "What workers get to end by themselves when the TaskManager stops",
        ..NONE
    },
    // -- local
    Setting {
        key: "local.taskmanagers",
        kind: Count { min: 1, max: 256 },
        default: "1",
        flag: "taskmanagers",
        used: &[Local],
        meaning: "How many TaskManagers `local` has",
        ..NONE
    },
];

/// The setting of a key.
pub(crate) fn find(key: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|s| s.key == key)
}

impl Setting {
    /// T1.
    pub(crate) fn variable(&self) -> String {
        format!("TIDEMILL_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Something that may be written for it.
    pub(crate) fn sample(&self) -> &'static str {
        if self.example.is_empty() { self.default } else { self.example }
    }
}
