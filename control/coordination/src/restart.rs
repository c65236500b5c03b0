//! Whether and when a failed job starts again. Pure: time and chance come with the call.
//!
//! Invariants
//!   R1  A restart is never in the past.
//!   R2  Backoff: without jitter, delays grow by `factor` from `initial_us` to `max_us`, and start over
//!       after an attempt that lasted `reset_after_us`; jitter moves each by at most its percentage and
//!       never above `max_us`.
//!   R3  A failure reported before the restart that was decided last belongs to the same attempt: it
//!       gets the same answer and is not counted.
//!   R4  After giving up, every answer is to give up.

use serde::{Deserialize, Serialize};

use crate::Micros;

/// How a job is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartStrategy {
    /// Again and again, with growing pauses.
    ExponentialBackoff(Backoff),
    /// A number of times in all, with equal pauses.
    FixedDelay {
        /// How many restarts there may be.
        attempts: u32,
        /// From the failure to the restart.
        delay_us: Micros,
    },
    /// Never.
    None,
}

impl Default for RestartStrategy {
    fn default() -> Self {
        Self::ExponentialBackoff(Backoff::default())
    }
}

/// How pauses grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The first pause.
    pub initial_us: Micros,
    /// What each pause is multiplied by; 0 counts as 1.
    pub factor: u32,
    /// The longest pause.
    pub max_us: Micros,
    /// How far chance moves a pause up or down, in percent of it; above 100 counts as 100.
    pub jitter_percent: u32,
    /// The pause starts over where an attempt lasted this long.
    pub reset_after_us: Micros,
}

impl Default for Backoff {
    /// 50 ms, doubled up to 30 s, give or take 10%, from the start again after 60 s of success.
    fn default() -> Self {
        Self {
            initial_us: 50_000,
            factor: 2,
            max_us: 30_000_000,
            jitter_percent: 10,
            reset_after_us: 60_000_000,
        }
    }
}

/// What to do about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start the next attempt then.
    RestartAt(Micros),
    /// The job has failed.
    GiveUp {
        /// What the strategy says about it, for the user.
        reason: String,
    },
}

/// A strategy and what it remembers of the failures so far.
#[derive(Clone, Debug)]
pub struct Restarts {
    strategy: RestartStrategy,
    restarts: u32,
    /// The last pause, before jitter.
    pause_us: Option<Micros>,
    restart_at: Option<Micros>,
    given_up: Option<String>,
}

impl Restarts {
    /// No failure so far.
    pub fn new(strategy: RestartStrategy) -> Self {
        Self { strategy, restarts: 0, pause_us: None, restart_at: None, given_up: None }
    }

    /// How many restarts were decided.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// An attempt failed at `now`; `random` is uniform over all of `u64`.
    pub fn on_failure(&mut self, now: Micros, random: u64) -> Decision {
        if let Some(reason) = &self.given_up {
            return Decision::GiveUp { reason: reason.clone() };
        }
        if let Some(at) = self.restart_at.filter(|&at| now < at) {
            return Decision::RestartAt(at);
        }
        let pause_us = match &self.strategy {
            RestartStrategy::ExponentialBackoff(backoff) => {
                let pause_us = self.grown(backoff, now);
                self.pause_us = Some(pause_us);
                jittered(backoff, pause_us, random)
            }
            RestartStrategy::FixedDelay { attempts, delay_us } if self.restarts < *attempts => {
                *delay_us
            }
            RestartStrategy::FixedDelay { attempts, .. } => {
                return self.give_up(format!(
                    "the job was restarted {attempts} times, as often as its fixed-delay restart strategy allows"
                ));
            }
            RestartStrategy::None => {
                return self.give_up("the job's restart strategy is none".to_owned());
            }
        };
        let at = now.saturating_add(pause_us);
        self.restarts = self.restarts.saturating_add(1);
        self.restart_at = Some(at);
        Decision::RestartAt(at)
    }

    /// The pause before jitter (R2).
    fn grown(&self, backoff: &Backoff, now: Micros) -> Micros {
        let lasted = self.restart_at.map(|at| now.saturating_sub(at));
        match (self.pause_us, lasted) {
            (Some(pause_us), Some(lasted)) if lasted < backoff.reset_after_us => {
                pause_us.saturating_mul(u64::from(backoff.factor.max(1))).min(backoff.max_us)
            }
            _ => backoff.initial_us.min(backoff.max_us),
        }
    }

    fn give_up(&mut self, reason: String) -> Decision {
        self.given_up = Some(reason.clone());
        Decision::GiveUp { reason }
    }
}

/// `pause_us` moved by chance (R2), all values about equally likely.
fn jittered(backoff: &Backoff, pause_us: Micros, random: u64) -> Micros {
    let percent = u128::from(backoff.jitter_percent.min(100));
    let (pause, random) = (u128::from(pause_us), u128::from(random));
    let spread = pause * percent / 100;
    let moved = pause - spread + ((random * (2 * spread + 1)) >> 64);
    Micros::try_from(moved).unwrap_or(Micros::MAX).min(backoff.max_us)
}
