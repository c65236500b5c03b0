//! What happens next: the choice among all that could.

use super::attempt::{Attempt, Ending};
use super::seat::Stepped;
use tidemill_base::Clock;
use tidemill_coordination::Event;
use tidemill_runtime::slot::Round;
use tidemill_runtime::task::Progress;

impl Attempt<'_> {
    /// One thing happens; how the life ended, if it did.
    pub(super) fn iterate(&mut self, iteration: u64) -> Result<Option<Ending>, String> {
        let clock = self.start.clock.clone();
        clock.advance(self.rng.below(self.start.scenario.step_us + 1));
        if iteration >= self.reweigh_at {
            self.reweigh_at = iteration + self.rng.pick(&[128, 512, 2_048]);
            self.reweigh();
        }
        if self.start.life.savepoint.is_some_and(|(at, _)| at == iteration) {
            let stop = self.start.life.savepoint.is_some_and(|(_, stop)| stop);
            let id = iteration;
            self.tell(if stop {
                Event::StopWithSavepoint { id }
            } else {
                Event::SavepointRequested { id }
            })?;
        }
        if self.wake_at.is_some_and(|at| at <= clock.now()) {
            self.wake_at = None;
            self.tell(Event::Tick)?;
        }
        let choice = self.rng.below(100);
        self.note(choice);
        let did = match choice {
            0..60 => self.step()?,
            60..68 => self.command()?,
            68..80 => self.carry_one(),
            80..90 => self.write(),
            _ => self.coordinate()?,
        };
        self.idle = if did { 0 } else { self.idle + 1 };
        if self.idle > 40 {
            self.idle = 0;
            self.settle()?;
        }
        Ok(self.ending.take())
    }

    /// For a while not all are equally fast: slots, subtasks, and whole tasks; some stand still.
    fn reweigh(&mut self) {
        let tasks = self.seats.iter().map(|seat| seat.slot.len()).max().unwrap_or(0);
        // Mostly a late task stands still, so that those before it meet backpressure.
        let still = self.rng.index(tasks + 1).max(self.rng.index(tasks + 1));
        let row = |i| if i == still { 0 } else { self.rng.pick(&[1, 1, 1, 20]) };
        let rows: Vec<u64> = (0..tasks).map(row).collect();
        self.weights.clear();
        for seat in &self.seats {
            let slot = self.rng.pick(&[0, 1, 1, 4, 20]);
            let task = |row: &u64| slot * row * self.rng.pick(&[0, 1, 1, 1]);
            self.weights.push(rows.iter().take(seat.slot.len()).map(task).collect());
        }
    }

    /// A task, by the weights; `None` where all stand still.
    fn draw(&mut self) -> Option<(usize, usize)> {
        let total: u64 = self.weights.iter().flatten().sum();
        let mut ticket = self.rng.below(total.max(1));
        for (slot, tasks) in self.weights.iter().enumerate() {
            for (task, &weight) in tasks.iter().enumerate() {
                if ticket < weight {
                    return Some((slot, task));
                }
                ticket -= weight;
            }
        }
        None
    }

    /// Steps some task; true if it worked.
    fn step(&mut self) -> Result<bool, String> {
        let clock = self.start.clock.clone();
        let Some((slot, task)) = self.draw() else { return Ok(false) };
        let seat = &mut self.seats[slot];
        let stepped = if self.start.scenario.strict {
            match seat.awake(clock.now()) {
                Ok(true) => seat.step(&clock),
                Ok(false) => return Ok(false),
                Err(e) => Err(e),
            }
        } else if seat.pump.is_some() && self.rng.percent(40) {
            seat.pump(clock.now()).map(|round| {
                let worked = matches!(round, Round::Worked);
                Stepped::Task(if worked { Progress::Worked } else { Progress::Finished })
            })
        } else {
            seat.step_task(task, &clock).map(Stepped::Task)
        };
        match stepped {
            Err(e) => self.failed(&e).map(|()| false),
            Ok(Stepped::Task(progress)) => Ok(progress == Progress::Worked),
            Ok(Stepped::RoundOver(progress)) => {
                let left = self.carry(slot, usize::MAX);
                self.seats[slot].round_over(left, clock.now());
                Ok(progress == Progress::Worked)
            }
        }
    }

    fn command(&mut self) -> Result<bool, String> {
        let slot = self.rng.index(self.seats.len());
        let clock = self.start.clock.clone();
        match self.seats[slot].command(&clock) {
            Ok(did) => Ok(did),
            Err(e) => self.failed(&e).map(|()| false),
        }
    }

    fn carry_one(&mut self) -> bool {
        let slot = self.rng.index(self.seats.len());
        let before: usize = self.waiting(slot);
        let most = self.rng.between(1, 8) as usize;
        self.carry(slot, most);
        self.waiting(slot) < before
    }

    /// Nothing has happened for a while: does everything that can be done, and where that is
    /// nothing moves the time to what is due next (W2).
    fn settle(&mut self) -> Result<(), String> {
        let clock = self.start.clock.clone();
        let (mut worked, mut until) = (false, Vec::new());
        for slot in 0..self.seats.len() {
            let seat = &mut self.seats[slot];
            let mut did = seat.command(&clock).map_err(|e| format!("a task failed: {e}"))?;
            let strict = self.start.scenario.strict;
            did |= seat.is_moving();
            if strict {
                match seat.awake(clock.now()) {
                    Ok(awake) => did |= awake,
                    Err(e) => return self.failed(&e),
                }
                until.extend(seat.until());
            } else {
                match seat.pump(clock.now()) {
                    Ok(Round::Worked) => did = true,
                    Ok(Round::Idle { until: u }) => until.extend(u),
                    Err(e) => return self.failed(&e),
                }
                for i in 0..seat.slot.len() {
                    match seat.step_task(i, &clock) {
                        Ok(Progress::Worked) => did = true,
                        Ok(Progress::Idle { until: u } | Progress::Blocked { until: u }) => {
                            until.extend(u);
                        }
                        Ok(Progress::Finished) => {}
                        Err(e) => return self.failed(&e),
                    }
                }
            }
            if did && strict && self.weights[slot].iter().sum::<u64>() == 0 {
                self.weights[slot].fill(1);
            }
            let before = self.waiting(slot);
            self.carry(slot, usize::MAX);
            worked |= did || self.waiting(slot) < before;
        }
        worked |= self.write();
        worked |= self.coordinate()?;
        if worked || self.ending.is_some() {
            return Ok(());
        }
        until.extend(self.wake_at);
        match until.iter().min() {
            Some(&at) => clock.advance(at.saturating_sub(clock.now())),
            None => return Err(format!("deadlock\n{}", self.picture())),
        }
        Ok(())
    }
}
