//! `program plan`: how a job's graph is learned without running its code in a process of ours.
//!
//! Invariants
//!   Q1  A plan ends within its time limit, and everything it started ends with it.
//!   Q2  What it prints is held up to a limit, and no further.

use crate::logs::Tail;
use crate::process::{Group, Launch, Spawner};
use crate::user::User;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use tidemill_protocol::{PlanError, PlanErrorKind, PlanRequest};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::time::timeout;

/// Q2.
const OUTPUT_BYTES_MAX: u64 = 8 << 20;
/// Bytes of standard error's end in a report.
const MESSAGE_BYTES: usize = 8 << 10;
/// For pipes to be read to their end after the program's.
const DRAIN: Duration = Duration::from_millis(500);
/// What a panic in `main` exits with.
const PANIC_CODE: i32 = 101;

fn error(kind: PlanErrorKind, message: impl Into<String>) -> PlanError {
    PlanError { kind, message: message.into() }
}

/// Runs a program for its submission.
///
/// # Errors
/// The user's fault or ours, as its kind says.
pub(crate) async fn run(
    spawner: &Spawner,
    program: PathBuf,
    user: Option<User>,
    request: &PlanRequest,
) -> Result<String, PlanError> {
    let mut args: Vec<String> = ["plan", "--format", "submission"].map(String::from).into();
    if let Some(n) = request.parallelism {
        args.extend(["--parallelism".into(), n.to_string()]);
    }
    args.extend(request.args.iter().cloned());
    let launch = Launch { program, args, stdin: false, user };
    let cannot = |e: io::Error| {
        error(PlanErrorKind::Agent, format!("the program cannot be run on the TaskManager: {e}"))
    };
    let mut child = spawner.spawn(launch).await.map_err(cannot)?;
    let group = Group::of(&child);
    let mut said = Tail::new(MESSAGE_BYTES);
    let limit = Duration::from_millis(request.timeout_ms);
    let outcome = timeout(limit, watch(&mut child, &mut said)).await;
    // Q1: also where it ended by itself but left something behind.
    group.kill();
    let _ = child.wait().await;
    match outcome {
        Err(_) => Err(error(
            PlanErrorKind::TimedOut,
            format!(
                "`program plan` was still running after {} ms: do nothing in main() but compose the \
                 job and hand it over; it wrote: {}",
                request.timeout_ms,
                said.text()
            ),
        )),
        Ok(Err(e)) => Err(cannot(e)),
        Ok(Ok((status, output))) => judge(status, output, &said.text()),
    }
}

async fn watch(child: &mut Child, said: &mut Tail) -> io::Result<(ExitStatus, Vec<u8>)> {
    let missing = || io::Error::other("no pipe");
    let mut stdout = child.stdout.take().ok_or_else(missing)?.take(OUTPUT_BYTES_MAX + 1);
    let mut stderr = child.stderr.take().ok_or_else(missing)?;
    let mut output = Vec::new();
    let ended = {
        let all = async {
            let output = async {
                let full = read_output(&mut stdout, &mut output).await;
                if full { Err(()) } else { Ok(()) }
            };
            let tail = async {
                read_tail(&mut stderr, said).await;
                Ok(())
            };
            tokio::try_join!(output, tail)
        };
        let mut all = std::pin::pin!(all);
        let mut read = false;
        loop {
            tokio::select! {
                // Too much: it would block now, and is killed by who called.
                end = &mut all, if !read => match end {
                    Ok(_) => read = true,
                    Err(()) => break None,
                },
                status = child.wait() => {
                    // Something that it started may hold the pipes open.
                    if !read {
                        let _ = timeout(DRAIN, all).await;
                    }
                    break Some(status?);
                }
            }
        }
    };
    let status = ended.unwrap_or_default();
    Ok((status, output))
}

/// Whether there was more than the limit.
async fn read_output(from: &mut (impl AsyncRead + Unpin), to: &mut Vec<u8>) -> bool {
    let _ = from.read_to_end(to).await;
    to.len() as u64 > OUTPUT_BYTES_MAX
}

async fn read_tail(from: &mut (impl AsyncRead + Unpin), to: &mut Tail) {
    let mut piece = vec![0; 8 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        to.push(&piece[..n]);
    }
}

fn judge(status: ExitStatus, output: Vec<u8>, said: &str) -> Result<String, PlanError> {
    if output.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(error(
            PlanErrorKind::Unreadable,
            format!(
                "`program plan` printed more than {OUTPUT_BYTES_MAX} bytes: print nothing in main()"
            ),
        ));
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => {}
        (Some(PANIC_CODE), _) => {
            return Err(error(PlanErrorKind::Crashed, format!("the program panicked: {said}")));
        }
        (Some(_), _) if !said.trim().is_empty() => {
            return Err(error(PlanErrorKind::Program, said));
        }
        (Some(code), _) => {
            let message = format!("`program plan` ended with exit code {code} and no message");
            return Err(error(PlanErrorKind::Program, message));
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let message = format!("the program was killed by signal {signal}: {said}");
            return Err(error(PlanErrorKind::Crashed, message));
        }
    }
    let text = String::from_utf8(output).map_err(|e| e.to_string());
    text.and_then(|text| {
        serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|e| e.to_string())?;
        Ok(text)
    })
    .map_err(|e| {
        error(
            PlanErrorKind::Unreadable,
            format!(
                "`program plan` printed something else than a plan: {e}; print nothing in main()"
            ),
        )
    })
}
