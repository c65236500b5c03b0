//! Brings the tables up to date, in one transaction, one process at a time.
//!
//! Invariants
//!   M1  A migration that was released never changes: what is different is a further one.
//!   M2  Versions stand in `tidemill.migrations`; the highest is the schema's.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tracing::info;

use super::failure::Failure;

/// M1. The version of each is its place, from 1.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];
/// What this version of the program knows.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;
/// "tidemill", as a number: held while tables are made.
const LOCK: i64 = 0x7469_6465_6d69_6c6c;

/// Makes or updates the tables where needed.
///
/// # Errors
/// They are newer; this user may not.
pub(super) async fn bring_up(client: &mut Client, server: &str) -> Result<(), Failure> {
    if version(client).await? == VERSION {
        return Ok(());
    }
    migrate(client, server).await.map_err(|failure| match failure {
        Failure::Refused(why) => Failure::Lasting(format!(
            "{server}: its tables cannot be made: {why}; let the user own the database, or grant it \
             CREATE on it"
        )),
        other => other,
    })
}

async fn migrate(client: &mut Client, server: &str) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    // Another may be at it for longer than a lock is waited for otherwise.
    transaction.batch_execute("SET LOCAL lock_timeout = '6s'").await?;
    transaction.execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    let present = version(transaction.client()).await?;
    if present > VERSION {
        return Err(Failure::Newer(newer(server, present)));
    }
    if present == 0 {
        transaction.batch_execute("CREATE SCHEMA IF NOT EXISTS tidemill").await?;
    }
    for (at, statements) in MIGRATIONS.iter().enumerate().skip(present as usize) {
        transaction.batch_execute(statements).await?;
        let row: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 1] =
            [(&(at as i32 + 1), Type::INT4)];
        transaction
            .execute_typed("INSERT INTO tidemill.migrations (version) VALUES ($1)", &row)
            .await?;
    }
    // What is in doubt is looked up by the next connection.
    transaction.commit().await?;
    if present < VERSION {
        info!("{server}: tables brought from version {present} to {VERSION}");
    }
    Ok(())
}

/// What a newer schema is refused with.
pub(super) fn newer(server: &str, present: i32) -> String {
    format!(
        "{server} has tables of version {present}, this JobManager knows version {VERSION}: use the \
         version that made them, or a newer one"
    )
}

/// 0: no tables.
async fn version(client: &Client) -> Result<i32, Failure> {
    // By a scan, which sees what was committed while this transaction waited for the lock; `to_regclass`
    // may answer from what this connection has seen before.
    let known = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace \
                 ON pg_namespace.oid = relnamespace \
                 WHERE nspname = 'tidemill' AND relname = 'migrations')";
    if !client.query_typed_one(known, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let highest = "SELECT coalesce(max(version), 0) FROM tidemill.migrations";
    Ok(client.query_typed_one(highest, &[]).await?.try_get(0)?)
}
