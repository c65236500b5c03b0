//! A connection to the server that breaks when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// When connections through a [`Proxy`] break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Break {
    /// Never.
    Not,
    /// When BEGIN arrives, which goes no further.
    AtBegin,
    /// When COMMIT arrives, which goes no further.
    AtCommit,
    /// When the answer to COMMIT arrives, which goes no further.
    AfterCommit,
    /// When COMMIT arrives: from then on nothing passes, and the connection stays open.
    SilentAtCommit,
}

const BREAKS: [Break; 5] =
    [Break::Not, Break::AtBegin, Break::AtCommit, Break::AfterCommit, Break::SilentAtCommit];

/// See the module.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    when: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let when = Arc::new(AtomicUsize::new(0));
        let told = when.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, told.clone()));
            }
        });
        Proxy { port, when }
    }

    /// The next time that this happens, once.
    pub(crate) fn break_once(&self, when: Break) {
        self.when.store(when as usize, Ordering::SeqCst);
    }

    /// It has not happened yet.
    pub(crate) fn waits(&self) -> bool {
        self.when.load(Ordering::SeqCst) != 0
    }
}

/// Both directions, until one of them ends or it is to break.
async fn pass(mut client: TcpStream, server: u16, when: Arc<AtomicUsize>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut committing = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let bytes = &asked[..read];
                let has = |word: &[u8]| bytes.windows(word.len()).any(|w| w == word);
                let broken = match BREAKS[when.load(Ordering::SeqCst)] {
                    Break::AtBegin => has(b"START TRANSACTION") || has(b"BEGIN"),
                    Break::AtCommit => has(b"COMMIT"),
                    Break::AfterCommit => { committing |= has(b"COMMIT"); false }
                    Break::SilentAtCommit if has(b"COMMIT") => {
                        when.store(0, Ordering::SeqCst);
                        return std::future::pending().await;
                    }
                    Break::Not | Break::SilentAtCommit => false,
                };
                if broken {
                    when.store(0, Ordering::SeqCst);
                    return;
                }
                if server.write_all(bytes).await.is_err() { return }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if committing {
                    when.store(0, Ordering::SeqCst);
                    return;
                }
                if client.write_all(&answered[..read]).await.is_err() { return }
            }
        }
    }
}
