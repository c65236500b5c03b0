//! How numbers are written in the manifest: hashes and checksums as hexadecimal strings (JSON
//! readers that hold numbers as doubles would round them), runs as one short string each.

use super::Run;

macro_rules! hex {
    ($name:ident, $int:ty, $digits:literal) => {
        pub(super) mod $name {
            use serde::de::Error;
            use serde::{Deserialize, Deserializer, Serializer};

            pub(crate) fn serialize<S: Serializer>(value: &$int, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(&format_args!(concat!("{:0", $digits, "x}"), value))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$int, D::Error> {
                let text = String::deserialize(d)?;
                <$int>::from_str_radix(&text, 16).map_err(D::Error::custom)
            }
        }
    };
}

hex!(hex32, u32, "8");
hex!(hex64, u64, "16");

impl From<Run> for String {
    fn from(run: Run) -> String {
        format!("{}+{}/{}", run.offset, run.bytes, run.chunks)
    }
}

impl TryFrom<String> for Run {
    type Error = String;

    fn try_from(text: String) -> Result<Run, String> {
        let parse = || {
            let (offset, rest) = text.split_once('+')?;
            let (bytes, chunks) = rest.split_once('/')?;
            let number = |n: &str| n.parse::<u64>().ok();
            Some(Run { offset: number(offset)?, bytes: number(bytes)?, chunks: number(chunks)? })
        };
        parse().ok_or_else(|| format!("run {text:?} is not of the form offset+bytes/chunks"))
    }
}
