//! The user that programs run as. Names are looked up in `/etc/passwd`; a host whose users come from
//! elsewhere gives `uid:gid`.

use crate::AgentError;

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The user of the setting, if this process may become it.
///
/// # Errors
/// An unknown user; a user other than the agent's own where the agent is not root.
pub(crate) fn resolve(setting: Option<&str>) -> Result<Option<User>, AgentError> {
    let Some(name) = setting else { return Ok(None) };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = find(name, &passwd).ok_or_else(|| {
        AgentError::Setting(format!(
            "taskmanager.worker_user '{name}' is not in /etc/passwd: create that user, or give UID:GID"
        ))
    })?;
    let own = rustix::process::geteuid().as_raw();
    match own {
        0 => Ok(Some(user)),
        _ if own == user.uid => Ok(None),
        _ => Err(AgentError::Setting(format!(
            "taskmanager.worker_user '{name}' can only be taken by root, this TaskManager runs as \
             uid {own}: start it as root or as '{name}', or remove the setting"
        ))),
    }
}

fn find(name: &str, passwd: &str) -> Option<User> {
    if let Some((uid, gid)) = name.split_once(':') {
        return Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? });
    }
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let known = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        known.then_some(())?;
        Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nstream:x:1001:1002::/:/bin/false\n";
        assert_eq!(find("stream", passwd), Some(User { uid: 1001, gid: 1002 }));
        assert_eq!(find("5:6", passwd), Some(User { uid: 5, gid: 6 }));
        assert_eq!(find("nobody", passwd), None);
        assert_eq!(find("x:y", passwd), None);
        let error = resolve(Some("no such user")).expect_err("unknown").to_string();
        assert!(error.contains("'no such user'"), "{error}");
    }
}
