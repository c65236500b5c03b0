//! Names of jobs, agents, workers and artifacts.
//!
//! Invariants
//!   I1  A job's or artifact's id is lower-case hexadecimal of a fixed length, so it may be a file name
//!       and a part of a URL as it is.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Number of a try of a job, from 0.
pub type Attempt = u32;

/// A text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} '{text}' is not {digits} lower-case hexadecimal digits")]
pub struct IdError {
    what: &'static str,
    text: String,
    digits: usize,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id of these bytes.
            pub fn from_bytes(bytes: [u8; $digits / 2]) -> Self {
                use fmt::Write as _;
                let mut text = String::with_capacity($digits);
                for byte in bytes {
                    let _ = write!(text, "{byte:02x}");
                }
                Self(text)
            }

            /// The bytes that it was made from.
            pub fn bytes(&self) -> [u8; $digits / 2] {
                let digit = |i: usize| match self.0.as_bytes()[i] {
                    d @ b'0'..=b'9' => d - b'0',
                    d => d - b'a' + 10,
                };
                std::array::from_fn(|i| digit(2 * i) << 4 | digit(2 * i + 1))
            }

            /// The hexadecimal digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == $digits && text.bytes().all(digit) {
                    return Ok(Self(text.to_owned()));
                }
                let text = text.chars().take(80).collect();
                Err(IdError { what: $what, text, digits: $digits })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex_id!(
    /// A submitted job: 32 hexadecimal digits, chosen at random by the JobManager.
    JobId, "job id", 32
);
hex_id!(
    /// A program file: the SHA-256 of its bytes.
    ArtifactHash, "artifact hash", 64
);
hex_id!(
    /// One life of an agent: 32 hexadecimal digits, chosen at random when it starts.
    AgentId, "TaskManager id", 32
);

/// A worker process of a job. Numbers are never reused within a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// Its job.
    pub job: JobId,
    /// Its number within the job, from 0.
    pub number: u32,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} of job {}", self.number, self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_of_their_length_and_nothing_else() {
        let id = JobId::from_bytes([0xab; 16]);
        assert_eq!(id.as_str().parse::<JobId>(), Ok(id.clone()));
        assert_eq!(id.bytes(), [0xab; 16]);
        for wrong in ["", "../../etc/passwd", "AB", &"g".repeat(32), &"a".repeat(33)] {
            let error = wrong.parse::<JobId>().expect_err("not an id").to_string();
            assert!(error.contains("32 lower-case"), "{error}");
        }
        assert!(serde_json::from_str::<JobId>("\"zz\"").is_err());
        assert_eq!(serde_json::to_string(&id).expect("json"), format!("\"{id}\""));
    }
}
