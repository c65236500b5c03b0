//! Who stands at the other end: both prove that they know the attempt's key, and neither tells it.
//! Sans-IO; `mesh.rs` carries the messages.
//!
//! ```text
//!   caller (lower slot)                              listener
//!   Hello: version, job, attempt, from, to,
//!          build, nonce                      ---->   the same version, job, attempt, build? my slot?
//!                                            <----   Challenge: nonce, MAC(key, "listener" | hello | nonce)
//!   is the MAC right?
//!   Proof: MAC(key, "caller" | hello |
//!              challenge)                    ---->   is the MAC right?
//!                                            <----   Welcome: MAC(key, "welcome" | hello | challenge | proof)
//!   session = MAC(key, "session" | all of it), its first four bytes, on both sides
//! ```
//! Either side may answer with a refusal that says why. The MAC is HMAC-SHA256, compared in constant time.
//!
//! Invariants
//!   N1  A handshake is done only when the peer has proved that it knows the key, for this hello and these
//!       nonces: nothing that was recorded proves anything later.
//!   N2  The key, and what would let it be guessed faster than by trying all, never goes on the wire.
//!   N3  Whoever is refused learns the reason, and so does the one who refuses.

mod message;

pub use message::MESSAGE_MAX;

use hmac::{Hmac, Mac};
use message::Message;
use sha2::Sha256;
use std::fmt;

#[cfg(test)]
mod tests;

/// Version of handshake and frames.
pub const PROTOCOL: u16 = 1;

/// The secret of one attempt of a job, drawn by whoever starts it.
#[derive(Clone, PartialEq, Eq)]
pub struct AttemptKey([u8; 32]);

impl AttemptKey {
    /// From its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        AttemptKey(bytes)
    }

    /// A new one, from the operating system's randomness.
    ///
    /// # Errors
    /// When the system has none.
    pub fn draw() -> tidemill_base::Result<Self> {
        nonce().map(AttemptKey)
    }

    /// Its bytes: to be handed to workers, never to be logged.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptKey(..)")
    }
}

/// 32 bytes that nobody can guess.
pub(crate) fn nonce() -> tidemill_base::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| tidemill_base::Error::job(format!("the system gives no random bytes: {e}")))?;
    Ok(bytes)
}

/// What both ends must agree on.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The job.
    pub job: [u8; 16],
    /// Its attempt: peers of another one are fenced off.
    pub attempt: u32,
    /// Hash of the program: records are read in place, so both ends must be the same build.
    pub build: [u8; 32],
    /// The attempt's secret.
    pub key: AttemptKey,
}

/// A refusal, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// We refuse the peer.
    ByUs(String),
    /// The peer refuses us.
    ByPeer(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::ByUs(reason) => write!(f, "refused: {reason}"),
            Refused::ByPeer(reason) => write!(f, "refused by the peer: {reason}"),
        }
    }
}

/// What a message led to.
#[derive(Debug)]
pub struct Reply {
    /// To be sent, refusals too.
    pub send: Option<Vec<u8>>,
    /// Where the handshake stands.
    pub state: Stage,
}

/// Where a handshake stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A message is awaited.
    Waiting,
    /// Done.
    Done {
        /// The number that both ends' frames carry.
        session: u32,
        /// The slot at the other end.
        peer: u32,
        /// The slot at this end.
        own: u32,
    },
    /// Over without a result.
    Refused(Refused),
}

#[derive(Debug)]
enum Role {
    Caller { to: u32 },
    Listener { slots: std::ops::Range<u32> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Hello,
    Challenge,
    Proof,
    Welcome,
    Over,
}

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    identity: Identity,
    role: Role,
    /// What is awaited.
    phase: Phase,
    nonce: [u8; 32],
    /// All that was said so far.
    transcript: Vec<u8>,
    peer: u32,
    own: u32,
}

impl Handshake {
    /// The caller's side, slot `from` calling slot `to`, with its first message.
    pub fn call(identity: Identity, from: u32, to: u32, nonce: [u8; 32]) -> (Self, Vec<u8>) {
        let hello = Message::hello(&identity, from, to, nonce);
        let handshake = Handshake {
            identity,
            role: Role::Caller { to },
            phase: Phase::Challenge,
            nonce,
            transcript: hello.clone(),
            peer: to,
            own: from,
        };
        (handshake, hello)
    }

    /// The listener's side, with the slots that are here.
    pub fn listen(identity: Identity, slots: std::ops::Range<u32>, nonce: [u8; 32]) -> Self {
        Handshake {
            identity,
            role: Role::Listener { slots },
            phase: Phase::Hello,
            nonce,
            transcript: Vec::new(),
            peer: 0,
            own: 0,
        }
    }

    /// The peer's next message.
    pub fn on(&mut self, bytes: &[u8]) -> Reply {
        match self.advance(bytes) {
            Ok(reply) => reply,
            Err(refused) => {
                self.phase = Phase::Over;
                let send = match &refused {
                    Refused::ByUs(reason) => Some(Message::refusal(reason)),
                    Refused::ByPeer(_) => None,
                };
                Reply { send, state: Stage::Refused(refused) }
            }
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Reply, Refused> {
        let message = Message::decode(bytes).map_err(Refused::ByUs)?;
        let waiting = |send| Ok(Reply { send: Some(send), state: Stage::Waiting });
        match (self.phase, message) {
            (_, Message::Refusal(reason)) => Err(Refused::ByPeer(reason)),
            (Phase::Hello, Message::Hello(hello)) => {
                self.judge(&hello)?;
                self.transcript = bytes.to_vec();
                let mac = self.mac(b"listener", &self.nonce);
                let challenge = Message::challenge(self.nonce, mac.finalize().into_bytes().into());
                self.transcript.extend_from_slice(&challenge);
                self.phase = Phase::Proof;
                waiting(challenge)
            }
            (Phase::Challenge, Message::Challenge { nonce, mac }) => {
                self.verify(self.mac(b"listener", &nonce), &mac)?;
                self.transcript.extend_from_slice(bytes);
                let proof = Message::proof(self.mac(b"caller", b"").finalize().into_bytes().into());
                self.transcript.extend_from_slice(&proof);
                self.phase = Phase::Welcome;
                waiting(proof)
            }
            (Phase::Proof, Message::Proof { mac }) => {
                self.verify(self.mac(b"caller", b""), &mac)?;
                self.transcript.extend_from_slice(bytes);
                let mac = self.mac(b"welcome", b"").finalize().into_bytes().into();
                Ok(Reply { send: Some(Message::welcome(mac)), state: self.done() })
            }
            (Phase::Welcome, Message::Welcome { mac }) => {
                self.verify(self.mac(b"welcome", b""), &mac)?;
                Ok(Reply { send: None, state: self.done() })
            }
            (phase, message) => {
                Err(Refused::ByUs(format!("{} while {phase:?} was awaited", message.name())))
            }
        }
    }

    fn judge(&mut self, hello: &message::Hello) -> Result<(), Refused> {
        let refuse = |reason: String| Err(Refused::ByUs(reason));
        let Role::Listener { slots } = &self.role else {
            return refuse("both ends call".into());
        };
        let own = &self.identity;
        if hello.version != PROTOCOL {
            let version = hello.version;
            return refuse(format!(
                "protocol version {version}, this worker speaks {PROTOCOL}: build all workers of a job \
                 against one version of tidemill"
            ));
        }
        if hello.job != own.job {
            return refuse("another job".into());
        }
        if hello.attempt != own.attempt {
            let (theirs, ours) = (hello.attempt, own.attempt);
            return refuse(format!("attempt {theirs} of the job, this worker runs attempt {ours}"));
        }
        if hello.build != own.build {
            return refuse(
                "another build of the program: all workers must run the same file".into(),
            );
        }
        if !slots.contains(&hello.to) {
            let to = hello.to;
            return refuse(format!("slot {to} is not here, slots {slots:?} are"));
        }
        if hello.from >= hello.to {
            let (from, to) = (hello.from, hello.to);
            return refuse(format!("slot {from} calls slot {to}: the lower one calls"));
        }
        (self.peer, self.own) = (hello.from, hello.to);
        Ok(())
    }

    fn mac(&self, purpose: &[u8], more: &[u8]) -> Hmac<Sha256> {
        let mut mac = match Hmac::<Sha256>::new_from_slice(self.identity.key.bytes()) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        mac.update(b"tidemill ");
        mac.update(purpose);
        mac.update(&[0]);
        mac.update(&self.transcript);
        mac.update(more);
        mac
    }

    fn verify(&self, mac: Hmac<Sha256>, got: &[u8; 32]) -> Result<(), Refused> {
        mac.verify_slice(got).map_err(|_| {
            Refused::ByUs(
                "the peer does not know the attempt's key: it belongs to another attempt, or is no \
                 worker of this cluster"
                    .into(),
            )
        })
    }

    fn done(&mut self) -> Stage {
        self.phase = Phase::Over;
        if let Role::Caller { to } = self.role {
            self.peer = to;
        }
        let tag: [u8; 32] = self.mac(b"session", b"").finalize().into_bytes().into();
        let session = u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]);
        Stage::Done { session, peer: self.peer, own: self.own }
    }
}
