//! PostgreSQL for the JobManagers of a cluster.

use crate::cluster::Plan;
use std::io;
use tidemill_postgres_testing::{PASSWORD, Server};

/// Lets a cluster that is not started yet keep its metadata in `server`, with two JobManagers. They need a place for
/// programs that both reach.
///
/// # Errors
/// When the password cannot be written.
pub fn keep_metadata_in(server: &Server, plan: &mut Plan) -> io::Result<()> {
    let password = plan.secret_file("database-password", PASSWORD)?;
    plan.job_managers = 2;
    plan.settings.extend([
        format!("metadata.location={}", server.url()),
        format!("metadata.password_file={}", password.display()),
    ]);
    Ok(())
}
