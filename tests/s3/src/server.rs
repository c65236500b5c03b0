//! The server: a thread with a runtime of its own, ended when it is dropped.

use std::convert::Infallible;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::fault::{Fault, Faults, Seen};
use crate::files::{Files, Unconditional, Uploads};

/// The bucket that is there.
pub const BUCKET: &str = "tidemill";
/// The one access key that it knows.
pub const ACCESS_KEY: &str = "AKIATIDEMILLTESTS";
/// Its secret.
pub const SECRET_KEY: &str = "a-secret-of-tests";

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

/// A running server; dropped, it ends and its objects are deleted.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    root: tempfile::TempDir,
    away: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    s3: S3Service,
    faults: Faults,
    uploads: Arc<Uploads>,
}

impl Server {
    /// Starts one on loopback, with [`BUCKET`] in it.
    ///
    /// # Panics
    /// When this machine does not let it.
    pub fn start() -> Self {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The same at another address of this machine, or of the network namespace of the calling thread.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start_at(address: IpAddr) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory for the server's objects");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a directory for the bucket");
        let files = FileSystem::new(root.path()).expect("a file system for the server");
        let uploads = Arc::new(Uploads::default());
        let putting = tokio::sync::Mutex::new(());
        let files = Files { inner: files, uploads: Arc::clone(&uploads), putting };
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared = Arc::new(Shared { s3: builder.build(), faults: Faults::default(), uploads });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()
            .expect("a runtime for the server");
        let listener = std::net::TcpListener::bind((address, 0));
        let listener = listener.expect("a free port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("the server's address");
        let (stop, stopped) = oneshot::channel();
        let (away, is_away) = watch::channel(false);
        let serving = Arc::clone(&shared);
        #[expect(clippy::disallowed_methods, reason = "the server is a shell of its own")]
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("the listener");
                tokio::select! {
                    () = accept(listener, serving, is_away) => {}
                    _ = stopped => {}
                }
            });
            // Requests that hang go with it.
            runtime.shutdown_background();
        });
        Server { address, shared, root, away, stop: Some(stop), thread: Some(thread) }
    }

    /// `http://`, address and port.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What clients need in their environment to use it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_S3", self.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            // Neither a profile of this user nor a cloud's address is asked.
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// From now on `decide` says what becomes of each request.
    pub fn fail(&self, decide: impl FnMut(&Seen) -> Fault + Send + 'static) {
        self.shared.faults.set(Some(Box::new(decide)));
    }

    /// From now on nobody listens: connections are refused, those that there were are gone. Or again.
    pub fn be_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    /// From now on every request is served.
    pub fn heal(&self) {
        self.shared.faults.set(None);
    }

    /// The requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        self.shared.faults.take_seen()
    }

    /// Keys of the multipart uploads that are open.
    pub fn open_uploads(&self) -> Vec<String> {
        self.shared.uploads.keys()
    }

    /// The directory with the bucket's objects, for tests that alter them behind the server's back.
    pub fn bucket_dir(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut away: watch::Receiver<bool>) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listening = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listening {
                Some(listener) => listener.accept().await,
                None => pending().await,
            }
        };
        tokio::select! {
            Ok((socket, _)) = accepted => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&shared), request));
                    // A connection that was cut, by either side, is what tests want.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
            Ok(()) = away.changed() => {
                if *away.borrow_and_update() {
                    listening = None;
                    connections.abort_all();
                } else if listening.is_none() {
                    listening = Some(listen_again(address).await);
                }
            }
            else => tokio::task::yield_now().await,
        }
    }
}

/// The port is this server's, unless somebody has taken it meanwhile: then it is waited for.
async fn listen_again(address: SocketAddr) -> TcpListener {
    loop {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn serve(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let method = request.method().as_str().to_owned();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let fault = shared.faults.on(&method, &path, &query);
    let cut = || Failure::from("cut, as the test wants");
    match fault {
        Fault::None | Fault::HangAfter | Fault::CutAfter | Fault::CutBody => {}
        Fault::Answer(status, code) => return Ok(refusal(status, code)),
        Fault::Slow(time) => tokio::time::sleep(time).await,
        Fault::Hang => return pending().await,
        Fault::CutBefore => return Err(cut()),
        Fault::Unconditional => {
            request.extensions_mut().insert(Unconditional);
        }
    }
    let served = shared.s3.call(request.map(s3s::Body::from)).await;
    let response = served.map_err(|e| format!("{e:?}"))?;
    let response = response.map(|body| body.map_err(Failure::from).boxed_unsync());
    match fault {
        Fault::HangAfter => pending().await,
        Fault::CutAfter => Err(cut()),
        Fault::CutBody => {
            let (head, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let torn = Torn(Some(bytes.slice(..bytes.len() / 2)));
            Ok(Response::from_parts(head, torn.boxed_unsync()))
        }
        _ => Ok(response),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e: Infallible| match e {}).boxed_unsync()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
         <Message>injected by the test</Message></Error>"
    );
    let mut response = Response::new(full(xml));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// A body that ends too early, and the connection with it.
struct Torn(Option<Bytes>);

impl hyper::body::Body for Torn {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        Poll::Ready(Some(match self.0.take() {
            Some(half) => Ok(Frame::data(half)),
            None => Err("cut, as the test wants".into()),
        }))
    }
}
