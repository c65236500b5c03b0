//! A program's arguments as REST takes them: a JSON array of texts, or words as in a shell.
//!
//! ```text
//!   ["--input", "a b.txt"]          JSON, where the field begins with [
//!   --input 'a b.txt' --limit 10    blanks separate; '...' and "..." join; \ escapes
//! ```
//! Nothing is expanded: no variables, no globs, no command substitution.

/// Most arguments, and most bytes of all together.
const ARGUMENTS_MAX: usize = 1_024;
const BYTES_MAX: usize = 64 << 10;

/// Reads the field.
///
/// # Errors
/// For the user.
pub(crate) fn parse(text: &str) -> Result<Vec<String>, String> {
    let text = text.trim();
    if text.len() > BYTES_MAX {
        return Err(format!("args has {} bytes, at most {BYTES_MAX} are taken", text.len()));
    }
    let args = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|e| {
            format!("args is no JSON array of texts: {e}; e.g. [\"--limit\", \"10\"]")
        })?
    } else {
        words(text)?
    };
    check(&args)?;
    Ok(args)
}

fn check(args: &[String]) -> Result<(), String> {
    if args.len() > ARGUMENTS_MAX {
        return Err(format!("args has {} words, at most {ARGUMENTS_MAX} are taken", args.len()));
    }
    if args.iter().any(|a| a.contains('\0')) {
        return Err("args contains a zero byte, which no program can be given".into());
    }
    Ok(())
}

fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            '\\' => {
                let next = chars.next().ok_or("args ends with a backslash: escape it as \\\\")?;
                word.get_or_insert_default().push(next);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err(format!("args has a quote {quote} that is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_ways_of_writing() {
        let parsed = |text: &str| parse(text).expect("arguments");
        assert!(parsed("").is_empty() && parsed("  ").is_empty() && parsed("[]").is_empty());
        assert_eq!(parsed(r#"["--input", "a b"]"#), ["--input", "a b"]);
        assert_eq!(
            parsed("--input 'a b' --n \"x\\\"y\" c\\ d ''"),
            ["--input", "a b", "--n", "x\"y", "c d", ""]
        );
        assert_eq!(parsed("$HOME *"), ["$HOME", "*"], "nothing is expanded");
        for wrong in ["'a", "\"a\\", "a\\", "[1]", "[\"a\"", "[\"\\u0000\"]"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&"a ".repeat(5_000)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(args in prop::collection::vec("[^\0']{0,12}", 0..6)) {
            let shell = args.iter().map(|a| format!("'{a}'")).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(parse(&shell), Ok(args.clone()));
            let json = serde_json::to_string(&args).expect("json");
            prop_assert_eq!(parse(&json), Ok(args));
        }
    }
}
