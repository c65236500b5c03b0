//! Program files in a bucket of a real server: the contract. What a failing server does to it: `tests/s3.rs`.

use std::cell::Cell;
use std::time::Duration;

use tidemill_jobmanager::metadata::S3Artifacts;
use tidemill_s3_testing::{ACCESS_KEY, BUCKET, SECRET_KEY, Server};
use tidemill_snapshot::{PART_BYTES_MIN, S3Credentials, S3Limits, S3Settings};

use crate::artifacts::{self, Shelf};

struct Bucket(S3Settings);

impl Shelf for Bucket {
    type Store = S3Artifacts;

    fn store(&self) -> S3Artifacts {
        S3Artifacts::new(&self.0).unwrap()
    }

    async fn reopen(self) -> Self {
        self
    }
}

#[test]
fn contract() {
    let server = Server::start();
    let count = Cell::new(0);
    artifacts::run(|| async {
        count.set(count.get() + 1);
        Bucket(S3Settings {
            endpoint: Some(server.endpoint()),
            path_style: true,
            credentials: Some(S3Credentials { id: ACCESS_KEY.into(), secret: SECRET_KEY.into() }),
            limits: S3Limits {
                part_bytes: PART_BYTES_MIN,
                ..S3Limits::within(Duration::from_secs(30))
            },
            ..S3Settings::new(BUCKET, format!("shelf/{}", count.get()))
        })
    });
    assert_eq!(server.open_uploads(), Vec::<String>::new());
}
