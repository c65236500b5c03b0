//! The stores in memory: the oracle keeps the contract too.

use tidemill_jobmanager::metadata::{MemoryArtifacts, MemoryMetadata};

use crate::artifacts::{self, Shelf};
use crate::contract::{self, Place};

struct Memory(MemoryMetadata);

impl Place for Memory {
    type Store = MemoryMetadata;

    async fn candidate(&self) -> MemoryMetadata {
        self.0.clone()
    }

    /// There is no lease: who is gone is deposed.
    async fn abandon(&self, leader: MemoryMetadata) {
        drop(leader);
        self.0.depose();
    }

    /// Nothing survives the process: the closest is that all who knew it are gone.
    async fn reopen(self) -> Self {
        self.0.depose();
        self
    }
}

#[test]
fn metadata_contract() {
    contract::run(|| async { Memory(MemoryMetadata::default()) });
}

struct MemoryShelf(MemoryArtifacts);

impl Shelf for MemoryShelf {
    type Store = MemoryArtifacts;

    fn store(&self) -> MemoryArtifacts {
        self.0.clone()
    }

    async fn reopen(self) -> Self {
        self
    }
}

#[test]
fn artifact_contract() {
    artifacts::run(|| async { MemoryShelf(MemoryArtifacts::default()) });
}
