//! Names of a sink's files. Only names that were written by [`hidden`] and [`visible`] are parsed.

use std::fmt::Write as _;

/// A file of this sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// Being written, or waiting for its commit.
    Hidden { subtask: u32, restored_epoch: u64, attempt: u32 },
    /// Committed.
    Visible { subtask: u32, epoch: u64 },
}

pub(crate) fn hidden(subtask: u32, restored_epoch: u64, attempt: u32, n: u64) -> String {
    format!(".part-{subtask}-{restored_epoch}-{attempt}-{n}.inprogress")
}

pub(crate) fn visible(subtask: u32, epoch: u64, n: usize, suffix: &str) -> String {
    let mut name = format!("part-{subtask:03}-{epoch:08}-{n}");
    let _ = write!(name, "{suffix}");
    name
}

pub(crate) fn parse(name: &str, suffix: &str) -> Option<Name> {
    let numbers = |text: &str, count: usize| -> Option<Vec<u64>> {
        let digits = |part: &str| {
            let all = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            all.then(|| part.parse().ok())?
        };
        let numbers: Option<Vec<u64>> = text.split('-').map(digits).collect();
        numbers.filter(|n| n.len() == count)
    };
    if let Some(middle) = name.strip_prefix(".part-").and_then(|n| n.strip_suffix(".inprogress")) {
        let numbers = numbers(middle, 4)?;
        let small = |n: u64| u32::try_from(n).ok();
        let (subtask, attempt) = (small(numbers[0])?, small(numbers[2])?);
        return Some(Name::Hidden { subtask, restored_epoch: numbers[1], attempt });
    }
    let numbers = numbers(name.strip_prefix("part-")?.strip_suffix(suffix)?, 3)?;
    Some(Name::Visible { subtask: u32::try_from(numbers[0]).ok()?, epoch: numbers[1] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn own_names_are_known(subtask: u32, epoch: u64, attempt: u32, n in 0usize..99, suffix in "(\\.[a-z]{1,4})?") {
            let hidden_name = hidden(subtask, epoch, attempt, n as u64);
            prop_assert_eq!(parse(&hidden_name, &suffix), Some(Name::Hidden { subtask, restored_epoch: epoch, attempt }));
            let visible_name = visible(subtask, epoch, n, &suffix);
            prop_assert_eq!(parse(&visible_name, &suffix), Some(Name::Visible { subtask, epoch }));
        }
        #[test]
        fn no_others_are(name in "\\.?part[-0-9a-z.]{0,12}") {
            if let Some(Name::Hidden { .. }) = parse(&name, "") {
                prop_assert!(name.starts_with(".part-") && name.ends_with(".inprogress"));
            }
        }
    }

    #[test]
    fn look_alikes_are_left_alone() {
        for name in [
            "part-1",
            "part-a-1-2",
            "part-1-2-3.csv",
            "part-1--3",
            ".part-1-2-3",
            "part-",
            "part-+1-2-3",
            ".part-1-2-3-4.inprogress~",
            "part-99999999999-1-1",
            ".part-1-2-3.inprogress",
        ] {
            assert_eq!(parse(name, ""), None, "{name}");
        }
    }
}
