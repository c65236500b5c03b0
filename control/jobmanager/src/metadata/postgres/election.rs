//! Who leads: renewing, watching, taking over (P1, P3).

use tidemill_coordination::Micros;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Transaction};

use super::failure::Failure;
use super::migrate;
use super::session::Session;
use super::watch::{Seen, Watch};
use crate::metadata::{Lead, Term};

/// What the two rows say.
struct Facts {
    version: i32,
    term: i64,
    holder: Option<String>,
    address: Option<String>,
    renewals: i64,
}

impl Facts {
    fn seen(&self) -> Seen {
        (self.term, self.renewals)
    }

    /// # Errors
    /// P6.
    fn check_version(&self, server: &str) -> Result<(), Failure> {
        if self.version > migrate::VERSION {
            return Err(Failure::Newer(migrate::newer(server, self.version)));
        }
        Ok(())
    }
}

/// A candidacy.
pub(super) async fn stand(
    session: &mut Session,
    me: &str,
    address: &str,
    watch: &mut Watch,
    now: Micros,
) -> Result<Lead, Failure> {
    let facts = facts(&session.client).await?;
    facts.check_version(&session.server)?;
    let free = match facts.holder.as_deref() {
        Some(holder) if holder == me => {
            if renew(&session.client, me, facts.term).await? {
                return Ok(Lead::Mine { term: facts.term as Term });
            }
            // Lost in between: who has it is seen next time.
            return Ok(Lead::Other { address: None });
        }
        Some(_) => watch.look(now, facts.seen()),
        None => true,
    };
    if !free {
        return Ok(Lead::Other { address: facts.address });
    }
    match take(session, me, address, &facts).await? {
        Some(term) => Ok(Lead::Mine { term }),
        None => Ok(Lead::Other { address: None }),
    }
}

async fn facts(client: &Client) -> Result<Facts, Failure> {
    let query = "SELECT (SELECT max(version) FROM tidemill.migrations), term, holder, address, renewals \
                 FROM tidemill.leadership, tidemill.lease";
    let row = client.query_typed_one(query, &[]).await?;
    Ok(Facts {
        version: row.try_get(0)?,
        term: row.try_get(1)?,
        holder: row.try_get(2)?,
        address: row.try_get(3)?,
        renewals: row.try_get(4)?,
    })
}

/// P4: without the lock of `leadership`.
async fn renew(client: &Client, me: &str, term: i64) -> Result<bool, Failure> {
    let query = "UPDATE tidemill.lease SET renewals = renewals + 1, renewed_at = clock_timestamp() \
                 FROM tidemill.leadership WHERE holder = $1 AND term = $2";
    let renewed = client.execute_typed(query, &[(&me, Type::TEXT), (&term, Type::INT8)]).await?;
    Ok(renewed == 1)
}

/// Takes what was seen to be free, if that is still so; its term.
async fn take(
    session: &mut Session,
    me: &str,
    address: &str,
    before: &Facts,
) -> Result<Option<Term>, Failure> {
    let transaction = session.client.transaction().await?;
    // Waits for a write that is under way; none begins before this ends (P1). One that was begun by a process
    // which is stopped is ended by the server soon.
    match lock(&transaction).await {
        Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(None),
        locked => locked?,
    }
    let now = facts(transaction.client()).await?;
    now.check_version(&session.server)?;
    let same = now.seen() == before.seen() && now.holder == before.holder;
    if !same && now.holder.is_some() {
        return Ok(None);
    }
    let query = "UPDATE tidemill.leadership SET term = term + 1, holder = $1, address = $2, \
                 since = clock_timestamp() RETURNING term";
    let row =
        transaction.query_typed_one(query, &[(&me, Type::TEXT), (&address, Type::TEXT)]).await?;
    let term: i64 = row.try_get(0)?;
    let renewed =
        "UPDATE tidemill.lease SET renewals = renewals + 1, renewed_at = clock_timestamp()";
    transaction.execute_typed(renewed, &[]).await?;
    // Where the answer is not had, the next candidacy finds out.
    transaction.commit().await?;
    Ok(Some(term as Term))
}

/// Locks the row of `leadership`: elections and writes are one after the other.
async fn lock(transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    transaction.query_typed_one("SELECT FROM tidemill.leadership FOR UPDATE", &[]).await?;
    Ok(())
}

/// Locks it for a write of a term (P1, P6).
pub(super) async fn hold(
    transaction: &Transaction<'_>,
    server: &str,
    me: &str,
    term: Term,
) -> Result<(), Failure> {
    lock(transaction).await?;
    check(transaction, server, me, term).await
}

/// Whether a term is this candidate's now.
pub(super) async fn check(
    transaction: &Transaction<'_>,
    server: &str,
    me: &str,
    term: Term,
) -> Result<(), Failure> {
    let facts = facts(transaction.client()).await?;
    facts.check_version(server)?;
    let mine = facts.holder.as_deref() == Some(me) && u64::try_from(facts.term) == Ok(term);
    if mine { Ok(()) } else { Err(Failure::Fenced) }
}

/// Gives up what this candidate has.
pub(super) async fn resign(session: &mut Session, me: &str) -> Result<(), Failure> {
    let query = "UPDATE tidemill.leadership SET holder = NULL, address = NULL WHERE holder = $1";
    session.client.execute_typed(query, &[(&me, Type::TEXT)]).await?;
    Ok(())
}
