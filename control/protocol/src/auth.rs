//! The handshake of a control connection: both sides prove that they know a key, which is never sent.
//!
//! ```text
//!  client                                              server
//!  Hello { version, role, nonce }               ---->
//!                                               <----  Challenge { nonce, proof } | Refused { reason }
//!  Proof { proof }                              ---->
//!                                               <----  Welcome | Refused { reason }
//! ```
//! Server's proof: HMAC-SHA256(key, "server" | role | client's nonce | server's nonce); the client's
//! the same with "client". The key is the cluster secret for agents and the job's key, derived from
//! it, for workers ([`job_key`]). Comparison takes the same time wherever two proofs differ.
//!
//! Invariants
//!   U1  A side that accepted has seen a proof made with its own key over its own fresh nonce.
//!   U2  A proof of one side never passes for one of the other, nor for another role.
//!
//! Not here: encryption. Run the cluster on a network that is private, or through a tunnel.

use crate::{JobId, VERSION, WorkerId};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Bytes of a key or a nonce.
pub const KEY_BYTES: usize = 32;

/// What proofs are made with.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// The key of a secret text or file content: its SHA-256, blanks at both ends removed.
    pub fn from_secret(secret: &str) -> Self {
        Key(Sha256::digest(secret.trim().as_bytes()).into())
    }

    /// A key from its bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Key(bytes)
    }

    /// Its bytes, to be handed on to a process of one's own.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A key that follows from this one and a text, and tells nothing of this one.
    #[must_use]
    pub fn derive(&self, parts: &[&[u8]]) -> Key {
        Key(tag(&self.0, parts))
    }
}

impl fmt::Debug for Key {
    /// Never the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The key of a job: what its workers prove themselves with.
pub fn job_key(secret: &Key, job: &JobId) -> Key {
    secret.derive(&[b"job", job.as_str().as_bytes()])
}

/// The key of an attempt's shuffle connections: a worker of an earlier attempt does not have it.
pub fn attempt_key(job_key: &Key, attempt: u32) -> Key {
    job_key.derive(&[b"attempt", &attempt.to_le_bytes()])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    // HMAC takes keys of any length.
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).unwrap_or_else(|_| unreachable!());
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

fn tag(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    mac(key, parts).finalize().into_bytes().into()
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A TaskManager's agent; proves the cluster secret.
    Agent,
    /// An agent that fetches an artifact; proves the cluster secret. The connection carries the
    /// file's bytes after the answer to its request.
    Artifact,
    /// A worker process; proves its job's key.
    Worker(WorkerId),
}

impl Role {
    fn text(&self) -> String {
        match self {
            Role::Agent => "agent".into(),
            Role::Artifact => "artifact".into(),
            Role::Worker(id) => format!("worker/{}/{}", id.job, id.number),
        }
    }

    /// The key that this role proves.
    pub fn key(&self, secret: &Key) -> Key {
        match self {
            Role::Agent | Role::Artifact => secret.clone(),
            Role::Worker(id) => job_key(secret, &id.job),
        }
    }
}

/// First message, from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The client's [`VERSION`].
    pub version: u32,
    /// Who it says it is.
    pub role: Role,
    /// Fresh chance.
    pub nonce: [u8; KEY_BYTES],
}

/// The server's answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Hello`.
    Challenge {
        /// Fresh chance.
        nonce: [u8; KEY_BYTES],
        /// That the server knows the key.
        proof: [u8; KEY_BYTES],
    },
    /// To `Proof`: messages follow.
    Welcome,
    /// The connection ends.
    Refused {
        /// Why, for the client's log.
        reason: String,
    },
    /// This JobManager does not lead; the one at this address (REST does not matter here) does.
    NotLeader {
        /// `host:port` of the leader's control port, where known.
        leader: Option<String>,
    },
}

/// The client's proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// That the client knows the key.
    pub proof: [u8; KEY_BYTES],
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Another version.
    #[error(
        "the peer speaks version {theirs} of the protocol, this build {VERSION}: run the same release on all hosts"
    )]
    Version {
        /// The peer's.
        theirs: u32,
    },
    /// A wrong proof.
    #[error(
        "the peer does not know the cluster secret: give JobManagers and TaskManagers the same one"
    )]
    Proof,
    /// The server said no.
    #[error("refused: {0}")]
    Refused(String),
    /// The server is not the leader.
    #[error("that JobManager does not lead; leader: {}", .0.as_deref().unwrap_or("unknown"))]
    NotLeader(Option<String>),
    /// A message out of turn.
    #[error("the peer answered out of turn")]
    OutOfTurn,
}

/// The client's side.
#[derive(Debug)]
pub struct Client {
    key: Key,
    hello: Hello,
}

impl Client {
    /// Starts; `nonce` must be fresh chance, `key` that of the role.
    pub fn new(key: Key, role: Role, nonce: [u8; KEY_BYTES]) -> Self {
        Client { key, hello: Hello { version: VERSION, role, nonce } }
    }

    /// The first message.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Answers the challenge.
    ///
    /// # Errors
    /// When the server refuses, or does not know the key.
    pub fn on_challenge(&self, answer: &Answer) -> Result<Proof, AuthError> {
        match answer {
            Answer::Challenge { nonce, proof } => {
                let role = self.hello.role.text();
                let parts = |side: &'static [u8]| [side, role.as_bytes(), &self.hello.nonce, nonce];
                mac(&self.key.0, &parts(b"server"))
                    .verify_slice(proof)
                    .map_err(|_| AuthError::Proof)?;
                Ok(Proof { proof: tag(&self.key.0, &parts(b"client")) })
            }
            other => Err(Self::denial(other)),
        }
    }

    /// Whether the server has accepted.
    ///
    /// # Errors
    /// When it has not.
    pub fn on_verdict(&self, answer: &Answer) -> Result<(), AuthError> {
        if *answer == Answer::Welcome { Ok(()) } else { Err(Self::denial(answer)) }
    }

    fn denial(answer: &Answer) -> AuthError {
        match answer {
            Answer::Refused { reason } => AuthError::Refused(reason.clone()),
            Answer::NotLeader { leader } => AuthError::NotLeader(leader.clone()),
            _ => AuthError::OutOfTurn,
        }
    }
}

/// The server's side, after `Hello`.
#[derive(Debug)]
pub struct Server {
    expected: Hmac<Sha256>,
    role: Role,
    challenge: Answer,
}

impl Server {
    /// Takes the client's first message; `nonce` must be fresh chance.
    ///
    /// # Errors
    /// A client of another version.
    pub fn new(secret: &Key, hello: &Hello, nonce: [u8; KEY_BYTES]) -> Result<Self, AuthError> {
        if hello.version != VERSION {
            return Err(AuthError::Version { theirs: hello.version });
        }
        let key = hello.role.key(secret);
        let role = hello.role.text();
        let parts = |side: &'static [u8]| [side, role.as_bytes(), &hello.nonce, &nonce];
        let proof = tag(&key.0, &parts(b"server"));
        let expected = mac(&key.0, &parts(b"client"));
        let challenge = Answer::Challenge { nonce, proof };
        Ok(Server { expected, role: hello.role.clone(), challenge })
    }

    /// The answer to `Hello`.
    pub fn challenge(&self) -> &Answer {
        &self.challenge
    }

    /// Judges the client's proof; the role that it has shown.
    ///
    /// # Errors
    /// A wrong proof.
    pub fn on_proof(self, proof: &Proof) -> Result<Role, AuthError> {
        self.expected.verify_slice(&proof.proof).map_err(|_| AuthError::Proof)?;
        Ok(self.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Role {
        Role::Worker(WorkerId { job: JobId::from_bytes([7; 16]), number: 3 })
    }

    fn run(client_key: Key, role: Role, server: &Key) -> Result<Role, AuthError> {
        let client = Client::new(client_key, role, [1; 32]);
        let server = Server::new(server, client.hello(), [2; 32])?;
        let proof = client.on_challenge(server.challenge())?;
        server.on_proof(&proof)
    }

    #[test]
    fn who_knows_the_secret_gets_in() {
        let secret = Key::from_secret("s3cret\n");
        assert_eq!(secret, Key::from_secret("s3cret"));
        assert_eq!(run(secret.clone(), Role::Agent, &secret), Ok(Role::Agent));
        let key = worker().key(&secret);
        assert_eq!(run(key, worker(), &secret), Ok(worker()));
    }

    #[test]
    fn who_does_not_stays_out() {
        let secret = Key::from_secret("a");
        assert_eq!(run(Key::from_secret("b"), Role::Agent, &secret), Err(AuthError::Proof));
        let other = job_key(&secret, &JobId::from_bytes([8; 16]));
        assert_eq!(run(other, worker(), &secret), Err(AuthError::Proof));
        let job = worker().key(&secret);
        assert_eq!(run(job, Role::Agent, &secret), Err(AuthError::Proof));
    }

    #[test]
    fn a_proof_is_good_for_its_connection_alone() {
        let secret = Key::from_secret("a");
        let client = Client::new(secret.clone(), Role::Agent, [1; 32]);
        let first = Server::new(&secret, client.hello(), [2; 32]).expect("version");
        let proof = client.on_challenge(first.challenge()).expect("known");
        let second = Server::new(&secret, client.hello(), [3; 32]).expect("version");
        assert_eq!(second.on_proof(&proof), Err(AuthError::Proof), "replayed");
        let Answer::Challenge { proof: mirrored, .. } = first.challenge().clone() else {
            panic!("a challenge")
        };
        assert_eq!(first.on_proof(&Proof { proof: mirrored }), Err(AuthError::Proof), "mirrored");
    }

    #[test]
    fn another_version_is_named() {
        let hello = Hello { version: VERSION + 1, role: Role::Agent, nonce: [0; 32] };
        let error = Server::new(&Key::from_secret("a"), &hello, [0; 32]).expect_err("version");
        assert!(error.to_string().contains(&(VERSION + 1).to_string()), "{error}");
    }

    #[test]
    fn keys_never_show() {
        assert_eq!(format!("{:?}", Key::from_secret("hunter2")), "Key(..)");
    }
}
