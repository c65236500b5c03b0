//! PostgreSQL and S3 under a cluster with two JobManagers: hosts of their own where this process may make some, and
//! what may happen to them.

use crate::bucket;
use crate::cluster::{Cluster, Plan};
use crate::database;
use crate::faults::Outage;
use crate::hosts::Hosts;
use crate::run::Keeper;
use std::net::{IpAddr, Ipv4Addr};
use tidemill_postgres_testing as postgres;
use tidemill_s3_testing as s3;
use tidemill_snapshot::SnapshotStore;

/// See the module.
pub struct Servers {
    database: postgres::Server,
    bucket: s3::Server,
    /// The database's host, where there are hosts.
    database_host: usize,
}

impl Servers {
    /// Starts both, and lets a cluster that is not started yet use them. Two JobManagers, and hosts for each part where
    /// `hosts` says so.
    ///
    /// # Errors
    /// When hosts cannot be made, or the password not be written.
    pub fn start(plan: &mut Plan, hosts: bool) -> std::io::Result<Self> {
        plan.job_managers = 2;
        let parts = plan.job_managers + plan.task_managers;
        let (database, bucket) = if hosts {
            let hosts = Hosts::new(parts + 2)?;
            let at = |n: usize| IpAddr::V4(hosts.address(n));
            let database = hosts.inside(parts, || postgres::Server::start_at(at(parts)))?;
            let bucket = hosts.inside(parts + 1, || s3::Server::start_at(at(parts + 1)))?;
            plan.hosts = Some(hosts);
            (database, bucket)
        } else {
            let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
            (postgres::Server::start_at(loopback), s3::Server::start_at(loopback))
        };
        database::keep_metadata_in(&database, plan)?;
        bucket::keep_all_in(&bucket, plan, 15);
        Ok(Servers { database, bucket, database_host: parts })
    }
}

impl Servers {
    /// The database's host, where there are hosts.
    pub fn database_host(&self) -> usize {
        self.database_host
    }

    /// The bucket's host, where there are hosts.
    pub fn bucket_host(&self) -> usize {
        self.database_host + 1
    }
}

impl Keeper for Servers {
    fn begin(&self, outage: Outage, _: &Cluster) {
        match outage {
            Outage::DatabaseKilled => self.database.end(postgres::End::Killed),
            Outage::DatabaseStill => self.database.stand_still(true),
            Outage::BucketBusy => self.bucket.fail(|_| s3::Fault::SLOW_DOWN),
            Outage::BucketHangs => self.bucket.fail(|_| s3::Fault::Hang),
            Outage::BucketSilent => self.bucket.fail(|_| s3::Fault::HangAfter),
            Outage::BucketGone => self.bucket.be_away(true),
        }
    }

    fn end(&self, outage: Outage, cluster: &Cluster) {
        match outage {
            Outage::DatabaseKilled => match &cluster.plan.hosts {
                Some(hosts) => {
                    let back = hosts.inside(self.database_host, || self.database.resume());
                    back.expect("the database's host");
                }
                None => self.database.resume(),
            },
            Outage::DatabaseStill => self.database.stand_still(false),
            Outage::BucketBusy | Outage::BucketHangs | Outage::BucketSilent => self.bucket.heal(),
            Outage::BucketGone => self.bucket.be_away(false),
        }
    }

    fn checkpoints_of(&self, job: &str) -> Result<Box<dyn SnapshotStore>, String> {
        Ok(Box::new(bucket::checkpoints_of(&self.bucket, job)?))
    }

    fn left_of(&self, job: &str) -> Vec<String> {
        // Not the program: its deletion is tried once, and again by the next leader only.
        let left = bucket::objects_of(&self.bucket, job).into_iter();
        let open = self.bucket.open_uploads().into_iter().filter(|name| name.contains(job));
        left.chain(open).collect()
    }
}
