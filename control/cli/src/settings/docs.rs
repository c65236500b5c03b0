//! docs/configuration.md, from the table.

use std::fmt::Write;

use super::file::sample;
use super::table::{Command, SECRETS, SECTIONS, Setting, TABLE};

const HEAD: &str = "\
# Configuration

<!-- Written by `tidemill config --docs`; a test compares. Change control/cli/src/settings/table.rs instead. -->

Nothing has to be configured on one machine. What is, is given in one of these ways; a later one goes before an earlier one:

1. **A file**, in [TOML](https://toml.io): `--config FILE`, or the one that `TIDEMILL_CONFIG` names, or the first that exists of `$XDG_CONFIG_HOME/tidemill/tidemill.toml`
   (`~/.config/tidemill/tidemill.toml`) and `/etc/tidemill/tidemill.toml`. Relative paths in it begin at its own directory.
2. **The environment**: `TIDEMILL_` and the key in capitals, dots as underscores: `TIDEMILL_JOBMANAGER_REST_PORT=9090`.
3. **Flags**: `--set KEY=VALUE` for every setting, and a flag of its own where the tables name one: `--port 9090`.

One file can serve all processes of a cluster: each takes what it uses. A key that does not exist is an error that names the nearest one that does.
`tidemill config` prints the settings that hold, and where each comes from.

```toml
# /etc/tidemill/tidemill.toml
data_dir = \"/var/lib/tidemill\"

[security]
secret_file = \"/etc/tidemill/secret\"
token_file = \"/etc/tidemill/token\"

[jobmanager]
bind = \"0.0.0.0\"

[checkpoints]
location = \"/mnt/shared/checkpoints\"
interval = \"5s\"

[taskmanager]
jobmanagers = [\"jm1.example.org:6123\"]
bind = \"0.0.0.0\"
slots = 8
```

Times are written with their unit (`500ms`, `5s`, `2m`, `1h 30m`), sizes too (`512 MiB`, `4 GiB`, `500 MB`).

**Secrets** are in none of these places: they are read from files that settings name, or from two variables of the environment.

| variable | what |
| --- | --- |
";

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = String::from(HEAD);
    for (name, meaning) in SECRETS {
        let _ = writeln!(page, "| `{name}` | {meaning} |");
    }
    for (section, heading) in SECTIONS {
        let _ = write!(page, "\n## {heading}\n\n");
        page.push_str(
            "| key | takes | default | flag | meaning |\n| --- | --- | --- | --- | --- |\n",
        );
        for setting in TABLE.iter().filter(|s| section_of(s) == *section) {
            page.push_str(&row(setting));
        }
    }
    page
}

fn section_of(setting: &Setting) -> &'static str {
    setting.key.split_once('.').map_or("", |(section, _)| section)
}

fn row(s: &Setting) -> String {
    let default = match (s.default, s.note) {
        ("", note) => note.to_owned(),
        (default, "") => format!("`{default}`"),
        (default, note) => format!("`{default}`; {note}"),
    };
    let flag = if s.flag.is_empty() { String::new() } else { format!("`--{}`", s.flag) };
    let users: Vec<&str> = s.used.iter().map(|c| user(*c)).collect();
    let example =
        if s.example.is_empty() { String::new() } else { format!(", e.g. `{}`", sample(s)) };
    let (key, kind, meaning) = (s.key, s.kind.name(), s.meaning);
    let used = users.join(", ");
    format!("| `{key}` | {kind} | {default} | {flag} | {meaning}{example}. *{used}* |\n")
}

fn user(command: Command) -> &'static str {
    match command {
        Command::JobManager => "jobmanager",
        Command::TaskManager => "taskmanager",
        Command::Local => "local",
        Command::Client => "client",
    }
}
