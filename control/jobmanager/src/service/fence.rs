//! Deleting only while this JobManager leads: what one that was deposed takes for old, the next one may be about to
//! use.
//!
//! Invariants
//!   X1  Nothing of a job's checkpoints and no program file is deleted unless the metadata store said at most
//!       [`FRESH_US`] before that the term holds. A store that does not answer holds nobody.
//!
//! What remains is a deletion that is under way while leadership changes: a new leader is elected only some
//! heartbeats of the store later, and it uses nothing that its rows do not name.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemill_base::Clock;
use tidemill_base::clock::SystemClock;
use tidemill_coordination::Micros;
use tidemill_protocol::StoreSettings;
use tidemill_snapshot::{
    CheckpointId, Error, ObjectReader, ObjectWriter, Report, Result, SharedFile, SnapshotStore,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::checkpoints::Failed;
use crate::metadata::{MetadataError, MetadataStore, Term};
use crate::stores::SnapshotOpener;

/// X1.
const FRESH_US: Micros = 100_000;
/// A store that does not answer by then has not answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A term of leadership, and where to ask whether it still holds.
#[derive(Clone)]
pub(super) struct Fence {
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) term: Term,
    pub(super) clock: SystemClock,
}

impl Fence {
    /// Asks.
    ///
    /// # Errors
    /// It does not hold, or that cannot be said: then asking again may help.
    pub(super) async fn check(&self) -> Result<(), MetadataError> {
        let answer = timeout(ANSWER_TIMEOUT, self.metadata.holds(self.term)).await;
        answer.unwrap_or_else(|_| Err(MetadataError::Unavailable("it does not answer".into())))
    }

    /// Does something with a store on a thread that may block, deleting only while the term holds.
    pub(super) async fn with_store<T: Send + 'static>(
        &self,
        opener: &SnapshotOpener,
        settings: &StoreSettings,
        work: impl FnOnce(&dyn SnapshotStore) -> Result<T> + Send + 'static,
    ) -> Result<T, Failed> {
        let (opener, settings, clock) = (opener.clone(), settings.clone(), self.clock.clone());
        let (questions, mut asked) = mpsc::unbounded_channel();
        let run = move || {
            let store = opener(&settings).map_err(Failed::Opening)?;
            let fenced = Fenced { store: &*store, questions, clock, heard: Mutex::new(None) };
            work(&fenced).map_err(Failed::Store)
        };
        let mut done = spawn_blocking(run);
        loop {
            let next = tokio::select! {
                Some(question) = asked.recv() => ControlFlow::Continue(question),
                result = &mut done => ControlFlow::Break(result),
            };
            match next {
                ControlFlow::Continue(question) => {
                    let question: Question = question;
                    // Who asked may have been given up.
                    let _ = question.send(self.check().await);
                }
                ControlFlow::Break(result) => {
                    return result.unwrap_or_else(|e| Err(Failed::Opening(e.to_string())));
                }
            }
        }
    }
}

/// Whether the term holds; answered by a task that may wait.
type Question = oneshot::Sender<Result<(), MetadataError>>;

/// A store that deletes nothing for who does not lead.
struct Fenced<'a> {
    store: &'a dyn SnapshotStore,
    questions: mpsc::UnboundedSender<Question>,
    clock: SystemClock,
    /// When the last good answer was asked for.
    heard: Mutex<Option<Micros>>,
}

impl Fenced<'_> {
    /// X1.
    fn leads(&self, epoch: Option<u64>) -> Result<()> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if heard.is_some_and(|at| now.saturating_sub(at) < FRESH_US) {
            return Ok(());
        }
        let (question, answer) = oneshot::channel();
        let _ = self.questions.send(question);
        let gone = || MetadataError::Unavailable("this JobManager ends".into());
        answer.blocking_recv().map_err(|_| gone()).flatten().map_err(|e| {
            let path = self.store.locate(epoch);
            let seen = format!("nothing is deleted: {e}");
            let report = |remedy: &str| Report { path, seen, remedy: remedy.to_owned() };
            match e {
                MetadataError::Unavailable(_) | MetadataError::InDoubt(_) => {
                    Error::Retry(report("asked again once the metadata store answers"))
                }
                _ => Error::Refused(report("the JobManager that leads deletes what is old")),
            }
        })?;
        *heard = Some(now);
        Ok(())
    }
}

impl SnapshotStore for Fenced<'_> {
    fn locate(&self, epoch: Option<u64>) -> String {
        self.store.locate(epoch)
    }

    fn begin(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectWriter>> {
        self.store.begin(epoch, name)
    }

    fn write_manifest(&self, epoch: u64, bytes: &[u8]) -> Result<()> {
        self.store.write_manifest(epoch, bytes)
    }

    fn read_manifest(&self, epoch: u64) -> Result<Option<Vec<u8>>> {
        self.store.read_manifest(epoch)
    }

    fn list(&self) -> Result<Vec<CheckpointId>> {
        self.store.list()
    }

    fn open_object(&self, epoch: u64, name: &str) -> Result<Box<dyn ObjectReader>> {
        self.store.open_object(epoch, name)
    }

    fn put_shared(&self, name: &str, content: &mut dyn std::io::Read) -> Result<SharedFile> {
        self.store.put_shared(name, content)
    }

    fn get_shared(&self, name: &str) -> Result<Box<dyn ObjectReader>> {
        self.store.get_shared(name)
    }

    fn list_shared(&self) -> Result<Vec<String>> {
        self.store.list_shared()
    }

    fn delete(&self, epoch: u64) -> Result<()> {
        self.leads(Some(epoch))?;
        self.store.delete(epoch)
    }

    fn delete_shared(&self, name: &str) -> Result<()> {
        self.leads(None)?;
        self.store.delete_shared(name)
    }

    fn remove_temporary(&self) -> Result<u64> {
        self.leads(None)?;
        self.store.remove_temporary()
    }

    fn close(&self) -> Result<()> {
        self.leads(None)?;
        self.store.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Lead, MemoryMetadata};
    use tidemill_snapshot::MemoryStore;

    const SETTINGS: StoreSettings = StoreSettings::Dir { path: String::new() };

    async fn fence(metadata: &Arc<MemoryMetadata>) -> Fence {
        let Ok(Lead::Mine { term }) = metadata.campaign("here:1").await else { panic!("elected") };
        Fence { metadata: metadata.clone(), term, clock: SystemClock::new() }
    }

    fn store() -> (MemoryStore, SnapshotOpener) {
        let store = MemoryStore::default();
        for epoch in 1..=3 {
            let mut object = store.begin(epoch, "worker-0.data").expect("begun");
            object.append(b"x").expect("appended");
            object.finish().expect("finished");
        }
        let opened: Arc<dyn SnapshotStore> = Arc::new(store.clone());
        (store, Arc::new(move |_: &StoreSettings| Ok(opened.clone())))
    }

    fn epochs(store: &MemoryStore) -> Vec<u64> {
        store.list().expect("listed").iter().map(|c| c.epoch).collect()
    }

    #[tokio::test]
    async fn who_leads_deletes() {
        let metadata = Arc::new(MemoryMetadata::default());
        let (fence, (store, opener)) = (fence(&metadata).await, store());
        let deleted = fence.with_store(&opener, &SETTINGS, |s| s.delete(1).and(s.delete(2))).await;
        deleted.expect("it leads");
        assert_eq!(epochs(&store), [3]);
    }

    #[tokio::test]
    async fn who_is_deposed_in_the_middle_deletes_nothing_more() {
        let metadata = Arc::new(MemoryMetadata::default());
        let (fence, (store, opener)) = (fence(&metadata).await, store());
        let (deposed, other) = (metadata.clone(), (*metadata).clone());
        let work = move |s: &dyn SnapshotStore| {
            s.delete(1)?;
            deposed.depose();
            let lead = tokio::runtime::Handle::current().block_on(other.campaign("there:2"));
            assert!(matches!(lead, Ok(Lead::Mine { .. })), "{lead:?}");
            // The last answer may be believed for a while; a deletion after it is not.
            let clock = SystemClock::new();
            while clock.now() < 2 * FRESH_US {
                std::thread::yield_now();
            }
            let kept = [
                s.delete(2).err(),
                s.delete_shared("f-1.sst").err(),
                s.remove_temporary().err(),
                s.close().err(),
            ];
            Ok(kept)
        };
        let kept = fence.with_store(&opener, &SETTINGS, work).await.expect("it ends");
        for error in kept {
            let error = error.expect("deleted").to_string();
            assert!(error.contains("another JobManager leads"), "{error}");
        }
        assert_eq!(epochs(&store), [3, 2]);
    }
}
