//! Two JobManager processes on one real PostgreSQL: one leads, the other takes over when it is gone, and PostgreSQL
//! may be away for a while (30 s with `LONG=1`, 6 s otherwise). The job goes on in the same attempt, in the same
//! processes, and its output is exact.

#![expect(clippy::disallowed_methods, reason = "a test in real time")]

use rustix::process::Signal;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;
use tidemill_chaos::cluster::{Cluster, Plan, build_command};
use tidemill_chaos::database::keep_metadata_in;
use tidemill_chaos::job::{Job, Load, PATIENCE};
use tidemill_chaos::part::until;
use tidemill_postgres_testing::{End, Server};

/// A running job, and what it runs on.
struct Run {
    cluster: Cluster,
    job: Job,
    /// Its worker processes, which nothing here is a reason to replace.
    workers: Vec<u32>,
    server: Server,
    _dir: TempDir,
}

type Outcome = Result<(), String>;

impl Run {
    fn start(settings: &[&str]) -> Result<Self, String> {
        let (server, dir) = (Server::start(), TempDir::new().map_err(|e| e.to_string())?);
        let program = PathBuf::from(env!("CARGO_BIN_EXE_chaos_job"));
        let mut plan = Plan::new(build_command(&program), dir.path());
        // However busy this machine is, workers are found again in time.
        plan.settings = ["jobmanager.adopt_timeout=2m", "jobmanager.reconnect_timeout=1m"]
            .iter()
            .chain(settings)
            .map(|setting| (*setting).to_owned())
            .collect();
        plan.settings.push(format!("artifacts.location={}", dir.path().join("programs").display()));
        keep_metadata_in(&server, &mut plan).map_err(|e| e.to_string())?;
        let cluster = Cluster::start(plan).map_err(|e| e.to_string())?;
        cluster.wait_for_slots()?;
        let more = [("parallelism", "4".to_owned())];
        let job = Job::submit(&cluster, &program, &dir.path().join("out"), Load::default(), &more)?;
        job.goes_on(&cluster, None)?;
        let workers = sorted(cluster.workers());
        if workers.len() != 2 {
            return Err(format!("one worker on each TaskManager is wanted: {workers:?}"));
        }
        Ok(Run { cluster, job, workers, server, _dir: dir })
    }

    /// The job goes on with the attempt and the processes that it began with.
    fn is_as_it_was(&self) -> Outcome {
        let attempt = self.job.goes_on(&self.cluster, None)?;
        let workers = sorted(self.cluster.workers());
        if (attempt, &workers) != (0, &self.workers) {
            return Err(format!("attempt {attempt}, {workers:?} instead of {:?}", self.workers));
        }
        Ok(())
    }

    /// Until another JobManager than `n` leads; which.
    fn heir_of(&self, n: usize) -> Result<usize, String> {
        until(PATIENCE, "another JobManager leads", || {
            (0..2).find(|&m| m != n && self.cluster.role(m).as_deref() == Some("leader"))
        })
    }

    /// Until JobManager `n` stands by, and says to those who ask that it does.
    fn stands_by(&self, n: usize) -> Outcome {
        until(PATIENCE, "the JobManager stands by, and knows who leads", || {
            let follows = self.cluster.role(n).as_deref() == Some("follower");
            let asked = self.cluster.ask_one(n, "GET", "/jobs", "application/json", b"").ok()?;
            (follows && asked.0 == 503 && asked.1["leader"].is_string()).then_some(())
        })
    }

    fn end(mut self) -> Outcome {
        let now = sorted(self.cluster.workers());
        if now != self.workers {
            return Err(format!("workers were replaced: {now:?} instead of {:?}", self.workers));
        }
        self.job.finish(&self.cluster)?;
        match self.cluster.end() {
            killed if killed.is_empty() => Ok(()),
            killed => Err(format!("did not end when told to: {killed:?}")),
        }
    }
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids
}

/// Runs a test; where it fails, with what the processes wrote last.
fn check(settings: &[&str], test: impl FnOnce(&mut Run) -> Outcome) {
    let mut run = Run::start(settings).unwrap_or_else(|e| panic!("{e}"));
    let done = test(&mut run);
    let words = run.cluster.last_words();
    if let Err(e) = done.and_then(|()| run.end()) {
        panic!("{e}\n{words}");
    }
}

#[test]
fn a_leader_that_is_killed_or_stands_still_is_replaced_and_then_stands_by() {
    check(&[], |run| {
        let first = run.cluster.leader().ok_or("nobody leads")?;
        let before = run.job.number(&run.cluster, "latest_checkpoint")?;
        run.cluster.job_managers[first].kill();
        let second = run.heir_of(first)?;
        run.is_as_it_was()?;
        let after = run.job.number(&run.cluster, "latest_checkpoint")?;
        if after <= before {
            return Err(format!("checkpoint {after} came after {before}"));
        }
        run.cluster.job_managers[first].start().map_err(|e| e.to_string())?;
        run.stands_by(first)?;
        // One that stands still does not know that it is replaced, until it goes on.
        run.cluster.job_managers[second].signal(Signal::STOP);
        let third = run.heir_of(second)?;
        run.is_as_it_was()?;
        run.cluster.job_managers[second].signal(Signal::CONT);
        run.stands_by(second)?;
        run.is_as_it_was()?;
        let term = run.server.query("SELECT term FROM tidemill.leadership");
        match (third == first, term.as_str()) {
            (true, "3") => Ok(()),
            other => Err(format!("{other:?}: the first one leads again, in term 3, is expected")),
        }
    });
}

/// For how long the store is away.
fn outage() -> Duration {
    Duration::from_secs(if std::env::var_os("LONG").is_some() { 30 } else { 6 })
}

/// The job reads all the while that PostgreSQL is away, and then completes checkpoints, under the same leader and in
/// the same processes.
fn over_an_outage(run: &Run, away: impl FnOnce(), back: impl FnOnce()) -> Outcome {
    let leader = run.cluster.leader().ok_or("nobody leads")?;
    away();
    let pieces = 3;
    for _ in 0..pieces {
        sleep(outage() / pieces);
        run.job.reads_on(&run.cluster)?;
    }
    let there = run.job.number(&run.cluster, "latest_checkpoint")?;
    back();
    until(PATIENCE, "a checkpoint completes after the outage", || {
        (run.job.status(&run.cluster)?["latest_checkpoint"].as_u64()? > there).then_some(())
    })?;
    if run.cluster.leader() != Some(leader) {
        return Err("the leader lost its office by an outage of the store".into());
    }
    let other = run.cluster.leader() == Some(0);
    run.stands_by(usize::from(other))
}

#[test]
fn postgresql_is_away_and_the_job_goes_on() {
    check(&[], |run| {
        let server = &run.server;
        over_an_outage(run, || server.end(End::Killed), || server.resume())?;
        run.is_as_it_was()?;
        over_an_outage(run, || server.stand_still(true), || server.stand_still(false))?;
        run.is_as_it_was()
    });
}

#[test]
fn a_checkpoint_that_postgresql_is_away_for_fails_and_later_ones_do_not() {
    let settings = ["checkpoints.timeout=3s", "checkpoints.tolerated_failures=any"];
    check(&settings, |run| {
        let server = &run.server;
        over_an_outage(run, || server.end(End::Immediate), || server.resume())?;
        let list = run.job.checkpoints(&run.cluster).ok_or("no checkpoints are listed")?;
        if !list.iter().any(|c| c["status"] == "FAILED") {
            return Err(format!("none failed: {list:?}"));
        }
        // Where the server went in the midst of a commit, what it did is not known in time: the attempt is restarted.
        match run.job.status(&run.cluster).ok_or("no JobManager")?["attempt"].as_u64() {
            Some(0) => run.is_as_it_was(),
            _ => run.job.exceptions(&run.cluster).and_then(|said| {
                match said.contains("did not say") {
                    true => Ok(()),
                    false => Err(format!("restarted for another reason: {said}")),
                }
            }),
        }
    });
}

#[test]
fn job_managers_that_start_while_postgresql_is_away_find_the_job_when_it_is_back() {
    check(&[], |run| {
        run.server.end(End::Fast);
        for job_manager in &mut run.cluster.job_managers {
            job_manager.kill();
            job_manager.start().map_err(|e| e.to_string())?;
        }
        sleep(outage());
        let leads = run.cluster.leader();
        if leads.is_some() {
            return Err(format!("{leads:?} leads without a store"));
        }
        run.server.resume();
        run.is_as_it_was()
    });
}
