//! A JobManager without a service around it: one job, two agents of two slots, all in this process.
#![expect(clippy::disallowed_methods, reason = "a shell of its own: it has threads and a clock")]

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tidemill_coordination::{
    Effect, Grant, LeftBehind, Master, MasterEvent, MasterSettings, Outcome, Submission,
};
use tidemill_protocol::auth::{Answer, Hello, Key, Proof, Role, Server, job_key};
use tidemill_protocol::frame::{self, Frames};
use tidemill_protocol::{AgentId, JobId, StoreSettings, WorkerId, WorkerSays, WorkerSettings};
use tidemill_snapshot::{DirStore, SectionKind, SnapshotStore};

/// No run may take longer.
const LIMIT: Duration = Duration::from_secs(240);

enum Input {
    Connected { worker: u32, connection: u64, stream: TcpStream },
    Said { worker: u32, connection: u64, says: WorkerSays },
}

struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    connection: Option<(u64, TcpStream)>,
}

pub(crate) struct Manager {
    master: Master,
    submission: Submission,
    settings: MasterSettings,
    store: DirStore,
    out: PathBuf,
    state: PathBuf,
    address: String,
    inputs: Receiver<Input>,
    processes: BTreeMap<u32, Process>,
    started: Instant,
    wake: Option<u64>,
    pending: Vec<MasterEvent>,
    last_attempt: Vec<tidemill_coordination::Assigned>,
    pub(crate) failures: Vec<String>,
    /// Attempts that were deployed.
    pub(crate) deployed: usize,
    /// Epochs that were reported as damaged.
    pub(crate) damaged: Vec<u64>,
    done: Option<Result<Outcome, String>>,
}

fn secret() -> Key {
    Key::from_secret("test")
}

fn job() -> JobId {
    JobId::from_bytes([7; 16])
}

impl Manager {
    pub(crate) fn new(submission: Submission, dir: &Path, out: &Path) -> Self {
        let chk = dir.join("chk");
        let path = chk.to_str().unwrap().to_owned();
        let settings = MasterSettings::new(StoreSettings::Dir { path });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tx, inputs) = channel();
        std::thread::spawn(move || accept(&listener, &tx));
        Manager {
            master: Master::new(settings.clone(), submission.clone(), 1, None),
            submission,
            settings,
            store: DirStore::create(&chk).unwrap(),
            out: out.to_owned(),
            state: dir.to_owned(),
            address,
            inputs,
            processes: BTreeMap::new(),
            started: Instant::now(),
            wake: Some(0),
            pending: Vec::new(),
            last_attempt: Vec::new(),
            failures: Vec::new(),
            deployed: 0,
            damaged: Vec::new(),
            done: None,
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    pub(crate) fn completed(&self) -> u64 {
        self.master.completed().last().copied().unwrap_or(0)
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.master.attempt()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.is_some()
    }

    pub(crate) fn finished(&self) -> &'static str {
        match &self.done {
            Some(Ok(Outcome::Finished)) => "finished",
            other => panic!("the job ended with {other:?}"),
        }
    }

    /// Why the job failed for good.
    pub(crate) fn refused(&self) -> &str {
        match &self.done {
            Some(Err(cause)) => cause,
            other => panic!("the job ended with {other:?}"),
        }
    }

    pub(crate) fn run_until(&mut self, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            assert!(
                self.started.elapsed() < LIMIT,
                "too slow: {:?} {:?}",
                self.master.status(),
                self.failures
            );
            match self.inputs.recv_timeout(Duration::from_millis(5)) {
                Ok(input) => self.on_input(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("nobody accepts"),
            }
            self.look_at_processes();
            if self.wake.is_some_and(|at| self.now() >= at) {
                self.wake = None;
                self.tell(MasterEvent::Tick);
            }
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Connected { worker, connection, stream } => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    process.connection = Some((connection, stream));
                }
            }
            Input::Said { worker, connection, says } => {
                let of = self.processes.get(&worker).and_then(|p| p.connection.as_ref());
                if of.is_none_or(|(c, _)| *c != connection) {
                    return;
                }
                match says {
                    WorkerSays::Heartbeat | WorkerSays::Metrics { .. } => {}
                    WorkerSays::Attach { data_address, running, .. } => {
                        let address = data_address;
                        self.tell(MasterEvent::WorkerAttached { worker, address, running });
                    }
                    says => self.tell(MasterEvent::Said { worker, says }),
                }
            }
        }
    }

    fn look_at_processes(&mut self) {
        let ended = |p: &mut Process| p.child.try_wait().unwrap();
        let gone: Vec<_> =
            self.processes.iter_mut().filter_map(|(&w, p)| Some((w, ended(p)?))).collect();
        for (worker, status) in gone {
            self.processes.remove(&worker);
            self.tell(MasterEvent::WorkerLost { worker, reason: status.to_string() });
        }
    }

    fn tell(&mut self, event: MasterEvent) {
        self.pending.push(event);
        while !self.pending.is_empty() {
            let event = self.pending.remove(0);
            let (now, mut effects) = (self.now(), Vec::new());
            self.master.on(now, event, &mut effects);
            effects.into_iter().for_each(|effect| self.carry_out(effect));
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Acquire { slots } => {
                let grant = |n: u32| Grant { agent: AgentId::from_bytes([n as u8; 16]), slots: 2 };
                let grants = (0..slots / 2).map(grant).collect();
                self.pending.push(MasterEvent::SlotsGranted(grants));
            }
            Effect::StartWorker { worker, slots, parallelism, .. } => {
                self.start(worker, slots, parallelism);
            }
            Effect::StopWorker { worker } => {
                if let Some(process) = self.processes.get_mut(&worker) {
                    let _ = process.child.kill();
                }
            }
            Effect::Send { worker, message } => {
                let process = self.processes.get_mut(&worker);
                if let Some((_, stream)) = process.and_then(|p| p.connection.as_mut()) {
                    let _ = frame::write(stream, &message);
                }
            }
            Effect::StoreManifest { manifest } => {
                let epoch = manifest.epoch;
                self.pending.push(match self.store.put_manifest(&manifest) {
                    Ok(()) => MasterEvent::ManifestStored { epoch },
                    Err(e) => MasterEvent::ManifestFailed { epoch, reason: e.to_string() },
                });
            }
            Effect::AttemptStarted { workers, .. } => {
                self.last_attempt = workers;
                self.deployed += 1;
            }
            Effect::AttemptFailed { cause, .. } => self.failures.push(cause),
            Effect::Damaged { epoch } => self.damaged.push(epoch),
            Effect::WakeAt(at) => self.wake = Some(at),
            Effect::Done { outcome } => self.done = Some(outcome),
            _ => {}
        }
    }

    fn start(&mut self, worker: u32, slots: u32, parallelism: u32) {
        let settings = WorkerSettings {
            worker: WorkerId { job: job(), number: worker },
            jobmanagers: vec![self.address.clone()],
            job_key: *job_key(&secret(), &job()).bytes(),
            slots,
            cpus: Vec::new(),
            bind: "127.0.0.1".into(),
            address: "127.0.0.1".into(),
            state_dir: self.state.join(format!("worker-{worker}")),
            memory_bytes: 0,
            artifact: None,
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(super::JOB, "1").arg("worker").arg("--out").arg(&self.out);
        command.arg("--parallelism").arg(parallelism.to_string());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let line = serde_json::to_string(&settings).unwrap() + "\n";
        std::io::Write::write_all(&mut stdin, line.as_bytes()).unwrap();
        let process = Process { child, stdin: Some(stdin), connection: None };
        self.processes.insert(worker, process);
    }

    /// The process of the oldest worker.
    pub(crate) fn oldest(&self) -> u32 {
        self.processes.values().next().unwrap().child.id()
    }

    /// SIGKILL to the newest worker.
    pub(crate) fn kill_worker(&mut self) {
        self.processes.values_mut().next_back().unwrap().child.kill().unwrap();
    }

    /// Changes a byte of the state by key in the newest checkpoint; its epoch.
    pub(crate) fn damage_newest(&mut self) -> u64 {
        let epoch = self.completed();
        let manifest = self.store.load_manifest(epoch).unwrap();
        let mut sections = manifest.subtasks.iter().flat_map(|s| &s.sections);
        let keyed = sections.find(|s| s.kind == SectionKind::KeyedState && s.records > 0).unwrap();
        let path = self.store.root().join(format!("chk-{epoch}")).join(&keyed.object);
        let mut bytes = std::fs::read(&path).unwrap();
        let run = keyed.runs[0];
        bytes[(run.offset + run.bytes) as usize - 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        epoch
    }

    /// As if the agent of the newest worker had died.
    pub(crate) fn drop_agent_pipe(&mut self) {
        self.processes.values_mut().next_back().unwrap().stdin = None;
    }

    /// All that is left is what a metadata store holds.
    pub(crate) fn crash_and_return(&mut self) {
        for process in self.processes.values_mut() {
            if let Some((_, stream)) = process.connection.take() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        let left = LeftBehind {
            attempt: self.master.attempt(),
            workers: self.last_attempt.clone(),
            completed: self.master.completed().to_vec(),
            first_epoch: self.completed() + 1,
            initial: None,
        };
        let settings = MasterSettings { first_worker: 1_000, ..self.settings.clone() };
        let deadline = self.now() + 10_000_000;
        self.master = Master::adopt(settings, self.submission.clone(), left, deadline);
        self.wake = Some(deadline);
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn accept(listener: &TcpListener, inputs: &Sender<Input>) {
    for (connection, stream) in listener.incoming().enumerate() {
        let inputs = inputs.clone();
        let stream = stream.unwrap();
        std::thread::spawn(move || serve(connection as u64, stream, &inputs));
    }
}

/// The handshake, then messages until the connection ends.
fn serve(connection: u64, mut stream: TcpStream, inputs: &Sender<Input>) -> Option<()> {
    let mut frames = Frames::default();
    let hello: Hello = frame::read(&mut stream, &mut frames).ok()??;
    let server = Server::new(&secret(), &hello, [9; 32]).unwrap();
    frame::write(&mut stream, server.challenge()).ok()?;
    let proof: Proof = frame::read(&mut stream, &mut frames).ok()??;
    let Ok(Role::Worker(id)) = server.on_proof(&proof) else { panic!("not a worker") };
    frame::write(&mut stream, &Answer::Welcome).ok()?;
    let worker = id.number;
    let writer = stream.try_clone().ok()?;
    inputs.send(Input::Connected { worker, connection, stream: writer }).ok()?;
    while let Ok(Some(says)) = frame::read::<WorkerSays>(&mut stream, &mut frames) {
        inputs.send(Input::Said { worker, connection, says }).ok()?;
    }
    Some(())
}
