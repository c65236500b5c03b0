//! Standard output, a line a record.

use crate::text::{TextFn, Written, json_line};
use serde::Serialize;
use std::fmt::{Display, Write as _};
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::sync::Arc;
use tidemill_base::metrics::TaskMetrics;
use tidemill_base::{Error, Record, Result, Timestamp};
use tidemill_runtime::sink::{Sink, SinkContext, SinkWriter};

/// Lines are written together from this size on.
const BUFFER_BYTES: usize = 8 << 10;

/// Prints records. At least once: after a restart the lines since the last checkpoint come again.
pub struct StdoutSink<T, F> {
    format: F,
    record: PhantomData<fn(T)>,
}

impl<T, F: Clone> Clone for StdoutSink<T, F> {
    fn clone(&self) -> Self {
        StdoutSink { format: self.format.clone(), record: PhantomData }
    }
}

impl<T, F, R> StdoutSink<T, F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> R + Clone + Send + 'static,
    R: Written,
{
    /// `format` appends a record's text; the line break is added.
    pub fn new(format: F) -> Self {
        StdoutSink { format, record: PhantomData }
    }
}

impl<T: Record> StdoutSink<T, ()> {
    /// Records as `{:?}` shows them.
    pub fn debug() -> StdoutSink<T, impl TextFn<T>> {
        StdoutSink::new(|view: T::View<'_>, out: &mut String| write!(out, "{view:?}"))
    }

    /// Records as `{}` shows them.
    pub fn display() -> StdoutSink<T, impl TextFn<T>>
    where
        for<'a> T::View<'a>: Display,
    {
        StdoutSink::new(|view: T::View<'_>, out: &mut String| write!(out, "{view}"))
    }

    /// Records as JSON lines; makes an owned record of each.
    pub fn json() -> StdoutSink<T, impl TextFn<T>>
    where
        T: Serialize,
    {
        StdoutSink::new(json_line::<T>)
    }
}

impl<T, F, R> Sink<T> for StdoutSink<T, F>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> R + Clone + Send + 'static,
    R: Written,
{
    type Writer = StdoutWriter<F>;

    fn open(&self, cx: &SinkContext) -> Result<StdoutWriter<F>> {
        let (format, metrics) = (self.format.clone(), cx.context.metrics.clone());
        Ok(StdoutWriter { format, text: String::new(), out: io::stdout(), metrics })
    }
    fn name(&self) -> String {
        String::from("stdout")
    }
}

/// Writer of a [`StdoutSink`].
pub struct StdoutWriter<F, W = io::Stdout> {
    format: F,
    text: String,
    out: W,
    metrics: Arc<TaskMetrics>,
}

impl<F, W: io::Write> StdoutWriter<F, W> {
    /// Whole lines at once: those of several subtasks do not mix.
    fn print(&mut self) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let written = self.out.write_all(self.text.as_bytes()).and_then(|()| self.out.flush());
        self.metrics.bytes_out.add(self.text.len() as u64);
        self.text.clear();
        written.map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Error::job("standard output was closed by its reader"),
            _ => Error::attempt(format!("cannot write to standard output: {error}")),
        })
    }
}

impl<T, F, R, W> SinkWriter<T> for StdoutWriter<F, W>
where
    T: Record,
    F: for<'a> FnMut(T::View<'a>, &mut String) -> R + 'static,
    R: Written,
    W: io::Write + 'static,
{
    fn write(&mut self, view: T::View<'_>, _: Timestamp) -> Result<()> {
        (self.format)(view, &mut self.text)
            .check()
            .map_err(|_| Error::job("the format of the stdout sink failed: check its function"))?;
        self.text.push('\n');
        if self.text.len() >= BUFFER_BYTES { self.print() } else { Ok(()) }
    }
    fn watermark(&mut self, _: Timestamp) -> Result<()> {
        self.print()
    }
    fn flush(&mut self) -> Result<()> {
        self.print()
    }
    fn prepare(&mut self, _: u64) -> Result<Vec<Vec<u8>>> {
        self.print()?;
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        self.print()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Remembers each write on its own.
    #[derive(Clone, Default)]
    struct Calls(Rc<RefCell<Vec<String>>>);

    impl io::Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().push(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer<W: io::Write + 'static>(out: W) -> impl SinkWriter<(String, u64)> {
        let format = |(word, n): (&str, u64), out: &mut String| write!(out, "{word} {n}");
        StdoutWriter { format, text: String::new(), out, metrics: Arc::default() }
    }

    #[test]
    fn whole_lines_at_once() {
        let calls = Calls::default();
        let mut writer = writer(calls.clone());
        writer.write(("a", 1), 0).unwrap();
        writer.write(("b", 2), 0).unwrap();
        assert!(calls.0.borrow().is_empty());
        writer.flush().unwrap();
        writer.flush().unwrap();
        writer.write(("c", 3), 0).unwrap();
        assert!(writer.prepare(1).unwrap().is_empty());
        for n in 0..BUFFER_BYTES as u64 {
            writer.write(("many", n), 0).unwrap();
        }
        writer.end().unwrap();
        let calls = calls.0.borrow();
        assert_eq!(calls[..2], ["a 1\nb 2\n", "c 3\n"]);
        assert!(calls.len() > 5 && calls.iter().all(|c| c.ends_with('\n')));
        assert_eq!(calls.concat().lines().count(), 3 + BUFFER_BYTES);
    }

    #[test]
    fn a_closed_pipe_ends_the_job() {
        let mut writer = writer(Closed);
        writer.write(("a", 1), 0).unwrap();
        let error = writer.flush().unwrap_err();
        assert_eq!(error.severity(), tidemill_base::Severity::FailJob);
        assert!(error.to_string().contains("closed"), "{error}");
    }
}
