//! What an uploaded file is, without running it. Pure: bytes come in pieces.
//!
//! Invariants
//!   P1  The verdict does not depend on how the file was cut into pieces.
//!   P2  Memory is bounded, whatever the file's length.

use tidemill_protocol::marker;

const MAGIC: &[u8; 4] = b"\x7fELF";
/// Bytes of the header of a 64-bit ELF file.
const HEAD: usize = 64;
/// The longest marker, and a byte.
const OVERLAP: usize = 128;

/// Why a file is no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAJob {
    #[error("the file is empty; send the program as the field job_file")]
    Empty,
    #[error("not an ELF program (it begins with {begins}); send the compiled job, not its source")]
    NotElf { begins: String },
    #[error("a program for {seen}; this cluster runs {wanted}: build it for that")]
    Architecture { seen: String, wanted: &'static str },
    #[error("an ELF file, but not a program: {seen}; send the executable")]
    NotExecutable { seen: &'static str },
    #[error(
        "the program is cut short: {there} bytes came, its header speaks of {wanted}; send it whole"
    )]
    CutShort { there: u64, wanted: u64 },
    #[error("not a Tidemill program: its main has to hand the job over to tidemill::job::main")]
    NoMarker,
    #[error(
        "built with tidemill {version}, which speaks protocol {theirs}; this cluster is tidemill {} \
         and speaks protocol {}: build it with that", env!("CARGO_PKG_VERSION"), tidemill_protocol::VERSION
    )]
    Version { version: String, theirs: u32 },
}

/// Looks at a file as it comes in.
#[derive(Debug, Default)]
pub(crate) struct Inspector {
    head: Vec<u8>,
    bytes: u64,
    /// The last bytes seen, where a marker may have begun.
    tail: Vec<u8>,
    found: Option<marker::Program>,
}

impl Inspector {
    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        let missing = HEAD.saturating_sub(self.head.len()).min(piece.len());
        self.head.extend_from_slice(&piece[..missing]);
        self.bytes += piece.len() as u64;
        if self.found.is_some() {
            return;
        }
        let seam = piece.len().min(OVERLAP);
        self.tail.extend_from_slice(&piece[..seam]);
        self.found = marker::find(&self.tail).or_else(|| marker::find(piece));
        if piece.len() > OVERLAP {
            self.tail = piece[piece.len() - OVERLAP..].to_vec();
        } else if self.tail.len() > OVERLAP {
            self.tail.drain(..self.tail.len() - OVERLAP);
        }
    }

    /// Whether the beginning shows already that it is no program; saves reading the rest.
    ///
    /// # Errors
    /// What it is instead.
    pub(crate) fn check_head(&self) -> Result<(), NotAJob> {
        if self.head.len() >= HEAD { check_elf(&self.head) } else { Ok(()) }
    }

    /// The verdict about the whole file.
    ///
    /// # Errors
    /// Why it is no job.
    pub(crate) fn finish(self) -> Result<(), NotAJob> {
        check_elf(&self.head)?;
        let wanted = sections_end(&self.head);
        if self.bytes < wanted {
            return Err(NotAJob::CutShort { there: self.bytes, wanted });
        }
        let program = self.found.ok_or(NotAJob::NoMarker)?;
        if program.protocol == tidemill_protocol::VERSION {
            Ok(())
        } else {
            Err(NotAJob::Version { version: program.version, theirs: program.protocol })
        }
    }
}

fn check_elf(head: &[u8]) -> Result<(), NotAJob> {
    if head.is_empty() {
        return Err(NotAJob::Empty);
    }
    if !head.starts_with(MAGIC) || head.len() < HEAD {
        let begins = head.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        return Err(NotAJob::NotElf { begins });
    }
    let (class, order) = (head[4], head[5]);
    let word = |at: usize| {
        let bytes = [head[at], head[at + 1]];
        if order == 2 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    };
    let (wanted, machine) = native();
    if (class, order, word(18)) != (2, 1, machine) {
        let bits = if class == 1 { "32-bit " } else { "" };
        let seen = format!("{bits}{}", name_of(word(18), order));
        return Err(NotAJob::Architecture { seen, wanted });
    }
    match word(16) {
        2 | 3 => Ok(()),
        1 => Err(NotAJob::NotExecutable { seen: "an object file" }),
        4 => Err(NotAJob::NotExecutable { seen: "a core dump" }),
        _ => Err(NotAJob::NotExecutable { seen: "of a type that is not known" }),
    }
}

/// Where the table of sections ends, which linkers put last; 0 where there is none.
fn sections_end(head: &[u8]) -> u64 {
    let number = |at: usize, bytes: usize| {
        head[at..at + bytes].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b))
    };
    let (offset, entry, count) = (number(40, 8), number(58, 2), number(60, 2));
    if offset == 0 { 0 } else { offset.saturating_add(entry * count) }
}

/// This machine.
fn native() -> (&'static str, u16) {
    if cfg!(target_arch = "aarch64") { ("aarch64", 183) } else { ("x86_64", 62) }
}

fn name_of(machine: u16, order: u8) -> String {
    let name = match machine {
        3 => "x86",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        258 => "loongarch",
        n => return format!("ELF machine {n}"),
    };
    if order == 2 { format!("{name} (big-endian)") } else { name.to_owned() }
}

/// A file that passes for a job: header, padding, marker.
#[cfg(test)]
fn sample(machine: u16, protocol_marker: &str, bytes: usize) -> Vec<u8> {
    let mut file = Vec::with_capacity(bytes);
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0");
    file.extend_from_slice(&machine.to_le_bytes());
    file.resize(bytes.max(64), 0);
    file.extend_from_slice(protocol_marker.as_bytes());
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARKER: &str = tidemill_protocol::program_marker!("0.1.0");

    fn judge(file: &[u8], cut: usize) -> Result<(), NotAJob> {
        let mut inspector = Inspector::default();
        file.chunks(cut.max(1)).for_each(|piece| inspector.push(piece));
        inspector.finish()
    }

    #[test]
    fn each_kind_of_file_is_called_by_its_name() {
        let good = sample(native().1, MARKER, 1_000);
        assert_eq!(judge(&good, 4096), Ok(()));
        assert_eq!(judge(b"", 1), Err(NotAJob::Empty));
        let text = judge(b"#!/bin/sh\necho a job of many lines\n", 7).expect_err("a script");
        assert!(text.to_string().contains("23 21 2f 62"), "{text}");
        assert!(matches!(judge(b"\x7fELF", 1), Err(NotAJob::NotElf { .. })), "cut short");
        let other = judge(&sample(if native().1 == 62 { 183 } else { 62 }, MARKER, 100), 64);
        let other = other.expect_err("another machine").to_string();
        assert!(other.contains("aarch64") && other.contains("x86_64"), "{other}");
        assert_eq!(judge(&sample(native().1, "", 1_000), 100), Err(NotAJob::NoMarker));
        let old = MARKER.replace("protocol=1", "protocol=7").replace("0.1.0", "9.9.9");
        let old = judge(&sample(native().1, &old, 1_000), 100).expect_err("version").to_string();
        assert!(old.contains("9.9.9") && old.contains("protocol 7"), "{old}");
        let mut object = good;
        object[16] = 1;
        assert!(matches!(judge(&object, 64), Err(NotAJob::NotExecutable { .. })));
    }

    #[test]
    fn a_program_cut_short_is_told_from_a_whole_one() {
        let mut file = sample(native().1, MARKER, 1_000);
        let end = file.len() as u64;
        file[40..48].copy_from_slice(&(end - 128).to_le_bytes());
        (file[58], file[60]) = (64, 2);
        assert_eq!(judge(&file, 100), Ok(()));
        file.pop();
        assert_eq!(judge(&file, 100), Err(NotAJob::CutShort { there: end - 1, wanted: end }));
    }

    #[test]
    fn thirty_two_bits_are_told_apart() {
        let mut file = sample(3, MARKER, 100);
        file[4] = 1;
        let error = judge(&file, 64).expect_err("32 bits").to_string();
        assert!(error.contains("32-bit x86"), "{error}");
    }

    proptest! {
        /// P1.
        #[test]
        fn the_verdict_is_that_of_the_whole(
            padding in 64usize..2_000, cut in 1usize..600, end in 0usize..300, marked: bool,
        ) {
            let mut file = sample(native().1, if marked { MARKER } else { "tidemill-" }, padding);
            file.resize(file.len() + end, 7);
            prop_assert_eq!(judge(&file, cut), judge(&file, file.len()));
            prop_assert_eq!(judge(&file, cut).is_ok(), marked);
        }

        /// Any bytes get a verdict.
        #[test]
        fn nothing_panics(file in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
            prop_assert!(judge(&file, cut).is_err());
        }
    }
}
