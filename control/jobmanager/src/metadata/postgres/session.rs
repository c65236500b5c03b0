//! Connections: where to, how, and whether what is there may be used.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, NoTls};
use tracing::debug;

use super::failure::Failure;
use super::{PostgresSettings, migrate};

/// For one host of the URL, unless it says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which nothing arrives is given up after about that.
const SILENCE: Duration = Duration::from_secs(6);

/// A statement, or waiting for a lock, ends before its caller gives up. Who holds the lock of an election and
/// is silent, because it was stopped or its host is gone, loses it.
const SETTINGS: &str = "
    SET lock_timeout = '3s'; SET statement_timeout = '6s';
    SET idle_in_transaction_session_timeout = '4s';
    SET client_min_messages = 'warning'; SET search_path = 'tidemill';
    SET default_transaction_isolation = 'read committed';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off'";

/// Where the database is.
#[derive(Debug)]
pub(super) struct Server {
    config: Config,
    name: String,
}

impl Server {
    /// # Errors
    /// For people; without the password.
    pub(super) fn new(url: &str, settings: &PostgresSettings) -> Result<Self, String> {
        const FORM: &str = "give postgres://USER@HOST:PORT/DATABASE, or \
                            postgres:///DATABASE?host=/run/postgresql&user=USER for a socket";
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(format!("the metadata URL begins with '{scheme}': {FORM}"));
        }
        let asked = |mode: &str| url.contains(&format!("sslmode={mode}"));
        if asked("require") || asked("verify-ca") || asked("verify-full") {
            return Err(
                "the metadata URL asks for an encrypted connection, which this version does \
                        not have: use a socket, a network that you trust or a tunnel, and \
                        sslmode=disable"
                    .into(),
            );
        }
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
            format!("the metadata URL cannot be read ({}): {FORM}", super::failure::text(&e))
        })?;
        config.ssl_mode(SslMode::Disable);
        if let Some(password) = &settings.password {
            config.password(password);
        }
        if config.get_hosts().is_empty() {
            return Err(format!("the metadata URL names no host: {FORM}"));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("tidemill jobmanager");
        }
        config.tcp_user_timeout(SILENCE).keepalives_idle(SILENCE / 2);
        config.keepalives_interval(SILENCE / 6).keepalives_retries(3);
        // Of several hosts, not one that only follows.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Server { name: name_of(&config), config })
    }

    /// For people; without the password.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The connection in a slot, or a new one.
    ///
    /// # Errors
    /// No server answers, or it does not let this process work.
    pub(super) async fn session<'s>(
        &self,
        slot: &'s mut Option<Session>,
    ) -> Result<&'s mut Session, Failure> {
        let session = match slot.take().filter(|s| !s.client.is_closed()) {
            Some(session) => session,
            None => self.open().await?,
        };
        Ok(slot.insert(session))
    }

    async fn open(&self) -> Result<Session, Failure> {
        let connected = self.config.connect(NoTls).await;
        let (client, connection) = connected.map_err(|e| Failure::of_connecting(&self.name, &e))?;
        let connection = tokio::spawn(async move {
            if let Err(e) = connection.await {
                debug!("a connection to the metadata database ended: {e}");
            }
        });
        let mut session = Session { client, connection, server: self.name.clone() };
        session.client.batch_execute(SETTINGS).await?;
        migrate::bring_up(&mut session.client, &self.name).await?;
        Ok(session)
    }
}

fn name_of(config: &Config) -> String {
    let port = |i: usize| match config.get_ports() {
        [] => 5432,
        [one] => *one,
        several => several.get(i).copied().unwrap_or(5432),
    };
    let hosts = config.get_hosts().iter().enumerate().map(|(i, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(i)),
        #[cfg(unix)]
        Host::Unix(path) => format!("{}:{}", path.display(), port(i)),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let user = config.get_user().map_or(String::new(), |user| format!("{user}@"));
    let database = config.get_dbname().or(config.get_user()).unwrap_or("");
    format!("PostgreSQL at {user}{hosts}/{database}")
}

/// A connection; closed when dropped.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    connection: JoinHandle<()>,
    /// Its name, for people.
    pub(super) server: String,
}

impl Drop for Session {
    fn drop(&mut self) {
        // With it goes the socket: the server rolls back what is not committed.
        self.connection.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server, String> {
        let settings = PostgresSettings { password: Some("hidden".into()), ..Default::default() };
        Server::new(url, &settings)
    }

    #[test]
    fn a_server_is_named_without_its_password() {
        let tcp = server("postgres://me:secret@db.example:5433/jobs").expect("a URL");
        assert_eq!(tcp.name(), "PostgreSQL at me@db.example:5433/jobs");
        let socket = server("postgresql:///jobs?host=/run/postgresql&user=me").expect("a URL");
        assert_eq!(socket.name(), "PostgreSQL at me@/run/postgresql:5432/jobs");
        let both = server("postgres://me@one:1,two:2/jobs").expect("a URL");
        assert_eq!(both.name(), "PostgreSQL at me@one:1,two:2/jobs");
    }

    #[test]
    fn a_url_that_cannot_be_is_refused_with_its_form_and_without_its_password() {
        for wrong in ["mysql://me:secret@host/jobs", "me:secret@host", "postgres://me@host:x/jobs"]
        {
            let error = server(wrong).expect_err("no URL");
            assert!(error.contains("postgres://USER@HOST:PORT/DATABASE"), "{error}");
            assert!(!error.contains("secret") && !error.contains("hidden"), "{error}");
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = server(&format!("postgres://me@host/jobs?sslmode={mode}"));
            assert!(error.expect_err("not encrypted").contains("sslmode=disable"));
        }
        assert!(server("postgres://me@host/jobs?sslmode=prefer").is_ok());
        assert!(server("postgres:///jobs").is_err());
    }
}
