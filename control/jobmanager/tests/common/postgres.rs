//! A real PostgreSQL server of a test, and what tests of metadata ask it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tidemill_jobmanager::metadata::{PostgresMetadata, PostgresSettings};
use tidemill_postgres_testing::PASSWORD;
use tokio_postgres::NoTls;

/// See [`tidemill_postgres_testing`]; starting it waits beside the test's runtime.
pub(crate) struct Server(Arc<tidemill_postgres_testing::Server>);

impl Deref for Server {
    type Target = tidemill_postgres_testing::Server;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Server {
    /// A server with an empty database.
    pub(crate) async fn start() -> Self {
        let start = || Arc::new(tidemill_postgres_testing::Server::start());
        Server(tokio::task::spawn_blocking(start).await.unwrap())
    }

    /// Starts it, again.
    pub(crate) async fn resume(&self) {
        let server = self.0.clone();
        tokio::task::spawn_blocking(move || server.resume()).await.unwrap();
    }

    /// A candidate with a short lease.
    pub(crate) async fn candidate(&self, lease: Duration) -> PostgresMetadata {
        candidate(&self.url(), lease).await
    }

    /// Forgets everything.
    pub(crate) async fn clear(&self) {
        self.run("DROP SCHEMA IF EXISTS tidemill CASCADE").await;
    }

    /// As an operator would by psql.
    pub(crate) async fn run(&self, statements: &str) {
        let (client, connection) =
            tokio_postgres::connect(&self.socket_url(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute(statements).await.unwrap();
        drop(client);
        let _ = connection.await;
    }

    /// The rows of a query, each as one text.
    pub(crate) async fn ask(&self, query: &str) -> Vec<String> {
        let (client, connection) =
            tokio_postgres::connect(&self.socket_url(), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query(&format!("SELECT row::text FROM ({query}) AS row"), &[]).await;
        let rows = rows.unwrap().iter().map(|row| row.get(0)).collect();
        drop(client);
        let _ = connection.await;
        rows
    }
}

pub(crate) async fn candidate(url: &str, lease: Duration) -> PostgresMetadata {
    let settings = PostgresSettings { password: Some(PASSWORD.into()), lease };
    PostgresMetadata::connect_with(url, settings).await.unwrap()
}

pub(crate) fn free_port() -> u16 {
    tidemill_postgres_testing::free_port(std::net::Ipv4Addr::LOCALHOST.into())
}
