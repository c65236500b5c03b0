//! A job's program as a worker process of a cluster: some slots of the job, deployed by the
//! JobManager as often as it takes.
//!
//! ```text
//!   stdin: settings, then nothing until the agent is gone
//!   control thread <--> JobManager          one connection, made anew whenever it breaks
//!        |  events
//!   this thread: orders in, reports out     one deployment at a time (deployed.rs)
//! ```
//!
//! Invariants
//!   K1  The process ends when its agent does, when it is told to, and on SIGTERM; never because the
//!       JobManager is away.
//!   K2  What is reported names the attempt that it is about; orders of another attempt do nothing.
//!   K3  What runs when a connection is made is told in its first message, so that nothing depends on
//!       reports that were lost with the connection before.

mod control;
mod deployed;

use super::signal;
use crate::env::Env;
use control::{Control, ControlEvent};
use crossbeam_channel::{Receiver, Sender, never};
use deployed::{Deployed, Place};
use std::io::BufRead;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tidemill_base::clock::SystemClock;
use tidemill_base::{Clock, Error, Result};
use tidemill_net::Listener;
use tidemill_plan::PhysicalPlan;
use tidemill_protocol::{
    Attempt, Deployment, TaskFailure, ToWorker, WorkerSays, WorkerSettings, auth::Key,
};
use tidemill_runtime::deploy::JobPlan;

/// How often counters are reported.
const METRICS_EVERY_US: u64 = 1_000_000;

/// Runs until told to end.
pub(super) fn run(env: &Env) -> Result<()> {
    let settings = read_settings()?;
    watch_agent();
    signal::install();
    let (physical, plan) = env.graph.finish()?;
    let clock = SystemClock::new();
    let listener = Listener::bind(resolve(&settings.bind, 0)?)?;
    let data_address = format!("{}:{}", settings.address, listener.local_addr().port());
    let key = Key::from_bytes(settings.job_key);
    let control = Control::start(&settings, key.clone(), clock.clone())?;
    let build = deployed::build(&physical, settings.artifact.as_ref())?;
    let worker = Process {
        settings: &settings,
        physical: &physical,
        plan: &plan,
        place: Place { listener, key, build, clock: clock.clone(), bound: control.bound.clone() },
        data_address,
        clock,
        out: None,
        deployed: None,
        failed: None,
    };
    worker.serve(&control.events)
}

/// The first line of standard input.
fn read_settings() -> Result<WorkerSettings> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| Error::job(format!("cannot read the worker's settings: {e}")))?;
    serde_json::from_str(&line).map_err(|e| {
        Error::job(format!(
            "the worker's settings on standard input cannot be read: {e}; the command 'worker' is \
             for TaskManagers, run the program without it"
        ))
    })
}

/// K1: the agent holds the other end of standard input.
fn watch_agent() {
    let watch = || {
        let mut rest = String::new();
        while std::io::stdin().lock().read_line(&mut rest).is_ok_and(|n| n > 0) {
            rest.clear();
        }
        eprintln!("the TaskManager is gone: this worker ends");
        std::process::exit(70);
    };
    // Without the thread the process still ends with its agent, by the signal that was asked for.
    let _ = std::thread::Builder::new().name("agent-watch".into()).spawn(watch);
}

/// `host` or `host:port`, as an address.
fn resolve(text: &str, port: u16) -> Result<SocketAddr> {
    let found = match text.to_socket_addrs() {
        Ok(mut addresses) => addresses.next(),
        Err(_) => (text, port).to_socket_addrs().ok().and_then(|mut a| a.next()),
    };
    found
        .ok_or_else(|| Error::attempt(format!("'{text}' is no address that this host can resolve")))
}

/// This worker.
struct Process<'a> {
    settings: &'a WorkerSettings,
    physical: &'a PhysicalPlan,
    plan: &'a JobPlan,
    place: Place,
    data_address: String,
    clock: SystemClock,
    /// Reports, while the connection stands.
    out: Option<Sender<WorkerSays>>,
    deployed: Option<Deployed>,
    /// An attempt that ended by this failure; told again to a JobManager that was away.
    failed: Option<(Attempt, TaskFailure)>,
}

impl Process<'_> {
    fn serve(mut self, control: &Receiver<ControlEvent>) -> Result<()> {
        let mut report_at = self.clock.now() + METRICS_EVERY_US;
        let (no_slots, no_writer) = (never(), never());
        loop {
            if signal::asked() {
                return Ok(());
            }
            let (slots, writer) = self
                .deployed
                .as_ref()
                .map_or((&no_slots, &no_writer), |d| (&d.messages, &d.writer_events));
            crossbeam_channel::select! {
                recv(control) -> event => match event {
                    Ok(event) => if self.on_control(event) { return Ok(()) },
                    Err(_) => return Err(Error::attempt("the control thread has ended")),
                },
                recv(slots) -> message => if let Ok(message) = message {
                    let says = self.deployed.as_mut().map_or(Ok(None), |d| d.on_slot(message));
                    self.report(says);
                },
                recv(writer) -> event => if let Ok(event) = event {
                    let says = self.deployed.as_mut().map_or(Ok(None), |d| d.on_writer(event));
                    self.report(says);
                },
                default(Duration::from_millis(100)) => {}
            }
            let now = self.clock.now();
            if now >= report_at {
                report_at = now + METRICS_EVERY_US;
                if let Some(d) = &self.deployed {
                    self.say(d.counters(now));
                }
            }
        }
    }

    /// Sends a report, or ends the attempt that has failed.
    fn report(&mut self, says: Result<Option<WorkerSays>, TaskFailure>) {
        match says {
            Ok(Some(says)) => {
                // Nobody asks for the last numbers once the job is over.
                if matches!(says, WorkerSays::SubtaskFinished { .. })
                    && let Some(all) = self.deployed.as_ref().filter(|d| d.is_finished())
                {
                    self.say(all.counters(self.clock.now()));
                }
                self.say(says);
            }
            Ok(None) => {}
            Err(failure) => {
                if let Some(deployed) = self.deployed.take() {
                    let attempt = deployed.attempt();
                    deployed.stop();
                    self.fail(attempt, failure);
                }
            }
        }
    }

    fn fail(&mut self, attempt: Attempt, failure: TaskFailure) {
        eprintln!("attempt {attempt} failed: {}", failure.message);
        self.failed = Some((attempt, failure.clone()));
        self.say(WorkerSays::Failed { attempt, failure });
    }

    /// Lost where the connection is: K3.
    fn say(&self, says: WorkerSays) {
        if let Some(out) = &self.out {
            let _ = out.send(says);
        }
    }

    /// True: end.
    fn on_control(&mut self, event: ControlEvent) -> bool {
        match event {
            ControlEvent::Connected(out) => {
                self.out = Some(out);
                let running = self.deployed.as_ref().map(Deployed::running);
                let failed = self.failed.clone().map(|(attempt, f)| deployed::failed(attempt, f));
                self.say(WorkerSays::Attach {
                    worker: self.settings.worker.clone(),
                    pid: std::process::id(),
                    data_address: self.data_address.clone(),
                    running: running.or(failed),
                });
            }
            ControlEvent::Lost => self.out = None,
            ControlEvent::Message(message) => return self.on_message(message),
        }
        false
    }

    fn on_message(&mut self, message: ToWorker) -> bool {
        match message {
            ToWorker::Attached { go_on, .. } => {
                if !go_on {
                    self.stop_all();
                }
            }
            ToWorker::Deploy(deployment) => self.deploy(&deployment),
            ToWorker::Stop { attempt } => self.stop(attempt),
            ToWorker::Shutdown => return true,
            order => {
                if let Some(deployed) = &mut self.deployed {
                    deployed.order(&order);
                }
            }
        }
        false
    }

    fn deploy(&mut self, deployment: &Deployment) {
        if let Some(old) = self.deployed.take() {
            old.stop();
        }
        self.failed = None;
        match Deployed::start(&self.place, self.settings, self.physical, self.plan, deployment) {
            Ok(deployed) => self.deployed = Some(deployed),
            Err(failure) => self.fail(deployment.attempt, failure),
        }
    }

    fn stop(&mut self, attempt: Attempt) {
        match self.deployed.take() {
            Some(deployed) if deployed.attempt() == attempt => deployed.stop(),
            other => self.deployed = other,
        }
        self.failed.take_if(|f| f.0 == attempt);
        self.say(WorkerSays::Stopped { attempt });
    }

    /// What runs is of no use to the JobManager that we attached to.
    fn stop_all(&mut self) {
        let failed = self.failed.take().map(|f| f.0);
        let running = self.deployed.take().map(|deployed| {
            let attempt = deployed.attempt();
            deployed.stop();
            attempt
        });
        for attempt in failed.into_iter().chain(running) {
            self.say(WorkerSays::Stopped { attempt });
        }
    }
}
