//! How a program file is recognised as a Tidemill job without running it.
//!
//! Every program that calls `job::main` contains the text
//! `tidemill-program|protocol=1|version=0.1.0|end` once. A JobManager looks for it in the bytes of
//! an uploaded file, so that what is not a job is refused before anybody executes it.

/// What the text begins with. Cut in two, so that a program which only looks for it has no marker.
const HEAD: (&str, &str) = ("tidemill-", "program|protocol=");

/// What a program file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The [`crate::VERSION`] that it speaks.
    pub protocol: u32,
    /// The version of the crate `tidemill` that it was built with.
    pub version: String,
}

/// The marker of a file; `None` where there is none.
pub fn find(file: &[u8]) -> Option<Program> {
    let head = [HEAD.0, HEAD.1].concat();
    let mut rest = file;
    while let Some(at) = position(rest, head.as_bytes()) {
        let tail = &rest[at + head.len()..];
        if let Some(program) = parse(&tail[..tail.len().min(64)]) {
            return Some(program);
        }
        rest = tail;
    }
    None
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|&b| b == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn parse(tail: &[u8]) -> Option<Program> {
    let end = position(tail, b"|end")?;
    let text = std::str::from_utf8(&tail[..end]).ok()?;
    let (protocol, version) = text.split_once("|version=")?;
    Some(Program { protocol: protocol.parse().ok()?, version: version.to_owned() })
}

/// The marker of programs built with this crate.
#[macro_export]
macro_rules! program_marker {
    ($version:expr) => {
        concat!("tidemill-", "program|protocol=", 1, "|version=", $version, "|end")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_found_among_other_bytes() {
        let mut file = vec![0u8; 1000];
        file.extend_from_slice(b"tidemill-program|protocol=x|version=|end tidemill-prog");
        assert_eq!(find(&file), None);
        file.extend_from_slice(program_marker!("0.1.0").as_bytes());
        file.extend_from_slice(&[0xff; 100]);
        let program = Program { protocol: crate::VERSION, version: "0.1.0".into() };
        assert_eq!(find(&file), Some(program));
    }

    #[test]
    fn a_marker_cut_short_is_none() {
        let whole = program_marker!("0.1.0").as_bytes();
        assert!((0..whole.len()).all(|n| find(&whole[..n]).is_none()));
    }
}
