//! An agent against a JobManager of the test's own, over loopback, with shell scripts as programs.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{FakeJobManager, PATIENCE, Registered, Serve, gone, runs, secret, start, worker};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;
use tidemill_protocol::auth::{Key, job_key};
use tidemill_protocol::{
    AgentSays, ArtifactHash, ExitStatus, LogRequest, PlanError, PlanErrorKind, PlanRequest,
    ToAgent, WorkerSettings,
};
use tidemill_taskmanager::{AgentConfig, AgentError, Limits};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// An agent in this process.
struct Agent {
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    fn start(config: AgentConfig) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(tidemill_taskmanager::run(config, async {
            let _ = stopped.await;
        }));
        Agent { stop: Some(stop), ended }
    }

    async fn stop(&mut self) {
        self.stop.take();
        timeout(PATIENCE, &mut self.ended).await.expect("it ends").unwrap().unwrap();
    }
}

fn config(dir: &TempDir, jobmanagers: &[&str]) -> AgentConfig {
    AgentConfig {
        jobmanagers: jobmanagers.iter().map(ToString::to_string).collect(),
        secret: secret(),
        slots: 4,
        first_cpu: 0,
        memory_bytes: Some(400),
        host: Some("here".into()),
        bind: "127.0.0.1".into(),
        address: None,
        data_dir: dir.path().to_owned(),
        worker_user: None,
        limits: Limits { stop_grace: Duration::from_secs(5), ..Limits::default() },
    }
}

/// What most tests need.
struct Stage {
    dir: TempDir,
    manager: FakeJobManager,
    agent: Agent,
    link: Registered,
}

impl Stage {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(tune: impl FnOnce(&mut AgentConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = FakeJobManager::start().await;
        let mut config = config(&dir, &[&manager.address]);
        tune(&mut config);
        let agent = Agent::start(config);
        let link = manager.agent().await;
        Stage { dir, manager, agent, link }
    }

    async fn plan(&mut self, artifact: &ArtifactHash) -> Result<String, PlanError> {
        self.link.say(ToAgent::Plan(plan_request(7, artifact))).await;
        match self.link.hear().await {
            AgentSays::Planned { request: 7, result } => result,
            other => panic!("{other:?}"),
        }
    }

    async fn plan_script(&mut self, text: &str) -> Result<String, PlanError> {
        let artifact = self.manager.files.script(text);
        self.plan(&artifact).await
    }
}

fn plan_request(request: u64, artifact: &ArtifactHash) -> PlanRequest {
    PlanRequest {
        request,
        artifact: artifact.clone(),
        args: vec!["--input".into(), "a b".into()],
        parallelism: Some(2),
        timeout_ms: 2_000,
    }
}

const FOR_EVER: &str = "read settings\necho \"$settings\"\necho \"$@\" >&2\nexec sleep 1000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_introduces_itself() {
    let mut stage = Stage::new().await;
    let AgentSays::Register { host, address, slots, memory_bytes, workers, .. } =
        &stage.link.register
    else {
        panic!("{:?}", stage.link.register)
    };
    assert_eq!(
        (host.as_str(), address.as_str(), *slots, *memory_bytes),
        ("here", "127.0.0.1", 4, 400)
    );
    assert!(workers.is_empty());
    stage.agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_asked_for_its_plan() {
    let mut stage = Stage::new().await;
    let script = r#"echo noise >&2; printf '["%s","%s","%s","%s","%s","%s","%s"]' "$@""#;
    let plan = stage.plan_script(script).await.unwrap();
    let words: Vec<String> = serde_json::from_str(&plan).unwrap();
    let wanted = ["plan", "--format", "submission", "--parallelism", "2", "--input", "a b"];
    assert_eq!(words, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_plan_is_refused_with_its_kind() {
    let mut stage = Stage::new().await;
    for (script, kind, message) in [
        ("echo '--input is missing' >&2; exit 1", PlanErrorKind::Program, "--input is missing"),
        ("exit 3", PlanErrorKind::Program, "exit code 3"),
        ("echo 'boom at main.rs:3' >&2; exit 101", PlanErrorKind::Crashed, "boom at main.rs:3"),
        ("echo last >&2; kill -SEGV $$", PlanErrorKind::Crashed, "signal 11: last"),
        ("echo hello", PlanErrorKind::Unreadable, "print nothing in main()"),
        ("head -c 9000000 /dev/zero", PlanErrorKind::Unreadable, "more than 8388608 bytes"),
        ("exec yes", PlanErrorKind::Unreadable, "more than 8388608 bytes"),
        ("cat; exit 4", PlanErrorKind::Program, "exit code 4"),
    ] {
        let error = stage.plan_script(script).await.unwrap_err();
        assert_eq!(error.kind, kind, "{script}: {error:?}");
        assert!(error.message.contains(message), "{script}: {error:?}");
    }
    let none = stage.manager.files.add("#!/no/such/shell", Serve::Whole);
    let error = stage.plan(&none).await.unwrap_err();
    assert_eq!(error.kind, PlanErrorKind::Agent, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_hangs_is_ended_with_all_that_it_started() {
    let mut stage = Stage::new().await;
    let began = Instant::now();
    let error = stage.plan_script("sleep 1000 & echo \"child $!\" >&2; wait").await.unwrap_err();
    assert_eq!(error.kind, PlanErrorKind::TimedOut);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let child = error.message.trim().rsplit(' ').next().unwrap().parse().unwrap();
    gone(child).await;
    // One that leaves a child behind, with the pipes open, is a plan all the same.
    let plan = stage.plan_script("sleep 1000 & echo \"[$!]\"").await.unwrap();
    let [child] = serde_json::from_str::<[u32; 1]>(&plan).unwrap();
    gone(child).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_artifact_is_fetched_once() {
    let mut stage = Stage::new().await;
    let artifact = stage.manager.files.script("echo '[]'");
    for request in 0..10 {
        stage.link.say(ToAgent::Plan(plan_request(request, &artifact))).await;
    }
    for _ in 0..10 {
        let AgentSays::Planned { result, .. } = stage.link.hear().await else { panic!("a plan") };
        assert_eq!(result.unwrap(), "[]\n");
    }
    assert_eq!(stage.manager.files.fetches(), 1, "C2");
    stage.agent.stop().await;

    // The next life of the agent has it; a file that was damaged meanwhile is fetched again.
    let mut agent = Agent::start(config(&stage.dir, &[&stage.manager.address]));
    stage.link = stage.manager.agent().await;
    stage.plan(&artifact).await.unwrap();
    assert_eq!(stage.manager.files.fetches(), 1);
    agent.stop().await;
    let file = stage.dir.path().join("artifacts").join(artifact.as_str());
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&file, "#!/bin/sh\necho bad").unwrap();
    let mut agent = Agent::start(config(&stage.dir, &[&stage.manager.address]));
    stage.link = stage.manager.agent().await;
    assert_eq!(stage.plan(&artifact).await.unwrap(), "[]\n", "C1");
    assert_eq!(stage.manager.files.fetches(), 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_download_is_never_run() {
    let mut stage = Stage::with(|c| c.limits.artifact_bytes = 1000).await;
    let files = stage.manager.files.clone();
    for (how, message) in [(Serve::Damaged, "came damaged"), (Serve::CutShort, "ended after")] {
        let artifact = files.add(format!("#!/bin/sh\necho '[]' # {message}"), how);
        let error = stage.plan(&artifact).await.unwrap_err();
        assert_eq!(error.kind, PlanErrorKind::Agent);
        assert!(error.message.contains(message), "{error:?}");
    }
    let large = files.add([b' '; 1001], Serve::Whole);
    let error = stage.plan(&large).await.unwrap_err();
    assert!(error.message.contains("artifact_limit"), "{error:?}");
    let error = stage.plan(&ArtifactHash::from_bytes([5; 32])).await.unwrap_err();
    assert!(error.message.contains("does not have"), "{error:?}");
    let left = std::fs::read_dir(stage.dir.path().join("artifacts")).unwrap().count();
    assert_eq!(left, 0, "nothing is kept of what failed");
    let healed = files.script("echo '[]' # came damaged");
    assert_eq!(stage.plan(&healed).await.unwrap(), "[]\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_least_recently_used_make_room() {
    let mut stage = Stage::with(|c| c.limits.cache_bytes = 2_500).await;
    let pad = " ".repeat(1_000);
    let scripts: Vec<_> =
        (0..4).map(|n| stage.manager.files.script(&format!("echo '[{n}]' #{pad}"))).collect();
    let used = stage.manager.files.script(&format!("exec sleep 1000 #{pad}"));
    stage.link.start(start(0, &used, 1)).await;
    for script in [&scripts[0], &scripts[1], &scripts[2], &scripts[2], &scripts[3]] {
        stage.plan(script).await.unwrap();
    }
    let kept =
        |hash: &ArtifactHash| stage.dir.path().join("artifacts").join(hash.as_str()).exists();
    assert!(kept(&used), "C3: in use");
    assert_eq!(scripts.iter().map(kept).collect::<Vec<_>>(), [false, false, false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_gets_its_settings_and_its_end_is_told() {
    let mut stage = Stage::new().await;
    let artifact = stage.manager.files.script(FOR_EVER);
    let pid = stage.link.start(start(3, &artifact, 2)).await;
    let log = logged(&mut stage, 3, |log| log.contains("--input") && log.contains('}')).await;
    assert!(log.starts_with("==> worker 3\n"), "{log}");
    assert!(log.contains("worker --parallelism 3 --input a b\n"), "{log}");
    let line = log.lines().find(|l| l.starts_with('{')).unwrap();
    let settings: WorkerSettings = serde_json::from_str(line).unwrap();
    assert_eq!(settings.worker, worker(3));
    assert_eq!(settings.job_key, *job_key(&secret(), &worker(3).job).bytes());
    assert_eq!((settings.slots, settings.cpus.len()), (2, 2));
    assert_eq!(settings.memory_bytes, 200, "its part of the agent's memory");
    assert_eq!(settings.jobmanagers, [stage.manager.address.clone()]);
    assert!(settings.state_dir.is_dir());

    let began = Instant::now();
    let killed = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let (id, status, last_words) = stage.link.exit().await;
    println!("the end of a process is told after {:?}", began.elapsed());
    assert_eq!((id, status), (worker(3), ExitStatus::Signal(9)));
    assert!(last_words.contains("worker --parallelism"), "{last_words}");
    while settings.state_dir.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the log of a worker's job is as wanted.
async fn logged(stage: &mut Stage, number: u32, wanted: impl Fn(&str) -> bool) -> String {
    let began = Instant::now();
    loop {
        let (job, bytes) = (worker(number).job, 1 << 20);
        stage.link.say(ToAgent::Log(LogRequest { request: 1, job, bytes })).await;
        let AgentSays::Log { result, .. } = stage.link.hear().await else { panic!("a log") };
        match result {
            Ok(log) if wanted(&log) => return log,
            other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_fails_leaves_its_last_words() {
    let mut stage = Stage::new().await;
    let artifact = stage.manager.files.script("read settings; echo 'no such table' >&2; exit 3");
    stage.link.start(start(0, &artifact, 4)).await;
    let (_, status, last_words) = stage.link.exit().await;
    assert_eq!((status, last_words.as_str()), (ExitStatus::Code(3), "no such table\n"));
    // One that cannot run at all.
    let artifact = stage.manager.files.add("#!/no/such/shell", Serve::Whole);
    stage.link.say(ToAgent::Start(start(1, &artifact, 4))).await;
    let (_, status, _) = stage.link.exit().await;
    let ExitStatus::NotStarted(why) = status else { panic!("{status:?}") };
    assert!(why.contains("interpreter"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_asked_to_end_and_killed_after_the_grace() {
    let mut stage = Stage::new().await;
    let polite = "trap 'echo bye; exit 0' TERM; echo ready; read s; while :; do sleep 0.01; done";
    let stubborn = "trap '' TERM; echo ready; read s; sleep 1000 & echo \"child $!\"; \
                    while :; do sleep 1; done";
    let polite = stage.manager.files.script(polite);
    let stubborn = stage.manager.files.script(stubborn);
    stage.link.start(start(0, &polite, 1)).await;
    stage.link.start(start(1, &stubborn, 1)).await;
    // Of the job: of both.
    let both = |log: &str| log.matches("ready").count() == 2 && log.contains("child");
    logged(&mut stage, 0, both).await;
    stage.link.say(ToAgent::Stop { worker: worker(0), grace_ms: 10_000 }).await;
    let (id, status, last_words) = stage.link.exit().await;
    assert_eq!((id, status, last_words.as_str()), (worker(0), ExitStatus::Code(0), "ready\nbye\n"));
    stage.link.say(ToAgent::Stop { worker: worker(1), grace_ms: 100 }).await;
    let (id, status, last_words) = stage.link.exit().await;
    assert_eq!((id, status), (worker(1), ExitStatus::Signal(9)));
    let child = last_words.trim().rsplit_once("child ").unwrap().1.parse().unwrap();
    gone(child).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_given_once_and_waited_for_while_a_worker_ends() {
    let mut stage = Stage::new().await;
    let slow =
        stage.manager.files.script("trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.01; done");
    let artifact = stage.manager.files.script(FOR_EVER);
    stage.link.start(start(0, &slow, 3)).await;
    stage.link.say(ToAgent::Start(start(1, &artifact, 2))).await;
    let (id, status, _) = stage.link.exit().await;
    let why = "it wants 2 slots, 1 of this TaskManager's 4 are free";
    assert_eq!((id, status), (worker(1), ExitStatus::NotStarted(why.into())));
    stage.link.say(ToAgent::Stop { worker: worker(0), grace_ms: 10_000 }).await;
    stage.link.say(ToAgent::Start(start(2, &artifact, 2))).await;
    assert_eq!(stage.link.exit().await.0, worker(0), "the slots are free only then");
    let AgentSays::Started { worker: id, pid } = stage.link.hear().await else { panic!("started") };
    assert_eq!(id, worker(2));
    // Asked again: told again, and not started again.
    assert_eq!(stage.link.start(start(2, &artifact, 2)).await, pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_go_on_while_the_jobmanager_is_away() {
    let mut stage = Stage::new().await;
    let artifact = stage.manager.files.script(FOR_EVER);
    let first = stage.link.start(start(0, &artifact, 1)).await;
    let second = stage.link.start(start(1, &artifact, 2)).await;
    drop(stage.link);
    let mut link = stage.manager.silent_agent().await;
    let AgentSays::Register { workers, .. } = &link.register else { panic!("{:?}", link.register) };
    let seen: Vec<_> = workers.iter().map(|w| (w.worker.clone(), w.slots, w.pid)).collect();
    assert_eq!(seen, [(worker(0), 1, first), (worker(1), 2, second)]);
    // One dies while nobody listens, the other is not wanted any more.
    let killed = rustix::process::Pid::from_raw(first.cast_signed()).unwrap();
    drop(link);
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    gone(first).await;
    link = stage.manager.silent_agent().await;
    link.say(ToAgent::Registered { heartbeat_ms: 100, keep: vec![] }).await;
    let mut ends = [link.exit().await, link.exit().await];
    ends.sort_by_key(|end| end.0.number);
    assert_eq!((&ends[0].0, &ends[0].1), (&worker(0), &ExitStatus::Signal(9)), "A3");
    assert_eq!((&ends[1].0, &ends[1].1), (&worker(1), &ExitStatus::Signal(15)));
    gone(second).await;
}

/// What was written to a connection may never have been read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_told_on_a_connection_that_broke_is_told_again() {
    let mut stage = Stage::new().await;
    let artifact = stage.manager.files.script(FOR_EVER);
    let pid = stage.link.start(start(0, &artifact, 1)).await;
    let killed = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    assert_eq!(stage.link.exit().await.1, ExitStatus::Signal(9));
    drop(stage.link);
    let mut link = stage.manager.agent().await;
    let (told, status, _) = link.exit().await;
    assert_eq!((told, status), (worker(0), ExitStatus::Signal(9)), "A3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_jobmanager_is_looked_for_again() {
    let mut stage = Stage::with(|c| c.limits.jobmanager_timeout = Duration::from_millis(300)).await;
    assert_eq!(stage.link.hear_any().await, None, "N2: it hangs up");
    stage.manager.agent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_ends_after_its_workers() {
    let mut stage = Stage::new().await;
    let artifact = stage.manager.files.script("trap '' TERM; read s; while :; do sleep 0.05; done");
    let quick = stage.manager.files.script(FOR_EVER);
    let stubborn = stage.link.start(start(0, &artifact, 1)).await;
    let polite = stage.link.start(start(1, &quick, 1)).await;
    stage.agent.stop().await;
    assert!(!runs(stubborn) && !runs(polite), "A4");
    let left = std::fs::read_dir(stage.dir.path().join("work")).unwrap().count();
    assert_eq!(left, 0, "their state is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_stay_within_their_bound() {
    let mut stage = Stage::with(|c| c.limits.log_bytes = 20_000).await;
    let artifact = stage
        .manager
        .files
        .script("i=0; while [ $i -lt 20000 ]; do echo \"line $i\"; i=$((i+1)); done");
    stage.link.start(start(0, &artifact, 1)).await;
    stage.link.exit().await;
    let folder = stage.dir.path().join("logs").join(worker(0).job.as_str());
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().collect();
    let total: u64 = files.iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(files.len() == 2 && (10_000..=20_000).contains(&total), "{files:?}: {total}");
    let request = LogRequest { request: 1, job: worker(0).job, bytes: 30 };
    stage.link.say(ToAgent::Log(request)).await;
    let AgentSays::Log { result, .. } = stage.link.hear().await else { panic!("a log") };
    assert_eq!(result.unwrap(), "==> worker 0\nline 19998\nline 19999\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_followed_and_the_secret_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut manager = FakeJobManager::start().await;
    let follower = common::start_follower(manager.address.clone()).await;
    // Nobody listens at the first, the second sends on.
    let mut agent = Agent::start(config(&dir, &["127.0.0.1:1", &follower]));
    let mut link = manager.agent().await;
    let artifact = manager.files.script("echo '[]'");
    link.say(ToAgent::Plan(plan_request(1, &artifact))).await;
    assert!(matches!(link.hear().await, AgentSays::Planned { result: Ok(_), .. }));
    agent.stop().await;

    let other = AgentConfig { secret: Key::from_secret("x"), ..config(&dir, &[&manager.address]) };
    let mut agent = Agent::start(other);
    assert!(!manager.hears_within(Duration::from_millis(500)).await);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = async |config: AgentConfig| {
        tidemill_taskmanager::run(config, std::future::pending()).await.unwrap_err().to_string()
    };
    assert!(refused(config(&dir, &[])).await.contains("--jobmanager HOST:PORT"));
    let none = AgentConfig { slots: 0, ..config(&dir, &["x:1"]) };
    assert!(refused(none).await.contains("taskmanager.slots"));
    let user = AgentConfig { worker_user: Some("no such".into()), ..config(&dir, &["x:1"]) };
    assert!(refused(user).await.contains("'no such'"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_hands_programs_to_the_worker_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: dropping privileges wants root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let mut manager = FakeJobManager::start().await;
    let user = Some("65534:65534".into());
    let agent =
        Agent::start(AgentConfig { worker_user: user, ..config(&dir, &[&manager.address]) });
    let mut link = manager.agent().await;
    let script = "if [ \"$1\" = plan ]; then echo \"[$(id -u), $(id -G)]\"; exit; fi\n\
                  read s; dir=$(echo \"$s\" | sed 's/.*\"state_dir\":\"\\([^\"]*\\)\".*/\\1/')\n\
                  echo hello > \"$dir/file\" && echo \"$(id -u) $(stat -c %u-%a \"$dir\")\"";
    let artifact = manager.files.script(script);
    link.say(ToAgent::Plan(plan_request(1, &artifact))).await;
    let AgentSays::Planned { result, .. } = link.hear().await else { panic!("a plan") };
    assert_eq!(result.unwrap(), "[65534, 65534]\n", "no group of root's either");
    link.start(start(0, &artifact, 1)).await;
    let (_, status, last_words) = link.exit().await;
    assert_eq!((status, last_words.as_str()), (ExitStatus::Code(0), "65534 65534-700\n"));
    // P1 for a process of another user: it dies with the agent's thread.
    let sleeper = manager.files.script("exec sleep 1000");
    let pid = link.start(start(1, &sleeper, 1)).await;
    agent.ended.abort();
    gone(pid).await;
}
