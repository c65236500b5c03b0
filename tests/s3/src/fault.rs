//! What may go wrong with a request, and who decides.

use std::sync::Mutex;
use std::time::Duration;

/// A request, as the one who decides sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// How many came before it.
    pub number: u64,
    /// `GET`, `PUT`, ...
    pub method: String,
    /// The path, bucket first.
    pub path: String,
    /// The query, without `?`.
    pub query: String,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is served.
    None,
    /// It is answered with this status and S3 error code, and not carried out.
    Answer(u16, &'static str),
    /// It is served after a while.
    Slow(Duration),
    /// It is neither carried out nor answered.
    Hang,
    /// It is carried out and never answered.
    HangAfter,
    /// The connection ends before it is carried out.
    CutBefore,
    /// It is carried out, and the connection ends without an answer.
    CutAfter,
    /// It is carried out, and the connection ends in the middle of the answer's body.
    CutBody,
    /// It is carried out as by a server that does not know `If-None-Match`.
    Unconditional,
}

impl Fault {
    /// 503: the server asks to be spared.
    pub const SLOW_DOWN: Fault = Fault::Answer(503, "SlowDown");
    /// 500.
    pub const INTERNAL: Fault = Fault::Answer(500, "InternalError");
}

type Decide = Box<dyn FnMut(&Seen) -> Fault + Send>;

/// Decides for each request.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    decide: Option<Decide>,
    seen: Vec<Seen>,
    number: u64,
}

impl Faults {
    pub(crate) fn set(&self, decide: Option<Decide>) {
        self.lock().decide = decide;
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.lock().seen)
    }

    pub(crate) fn on(&self, method: &str, path: &str, query: &str) -> Fault {
        let mut inner = self.lock();
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
        let seen = Seen { number: inner.number, method, path, query };
        inner.number += 1;
        let fault = inner.decide.as_mut().map_or(Fault::None, |decide| decide(&seen));
        inner.seen.push(seen);
        fault
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
