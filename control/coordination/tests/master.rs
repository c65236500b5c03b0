//! Masters under faults: random lives of a small cluster on a virtual clock, with lost connections,
//! killed workers and agents, failing stores and JobManagers that crash and come back.
#![expect(clippy::unwrap_used, reason = "a test that fails")]

#[path = "master/world.rs"]
mod world;

use world::World;

/// Replay one life with `MASTER_SEED=n cargo test -p tidemill-coordination --test master`.
#[test]
fn random_lives() {
    let one = std::env::var("MASTER_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = one.map_or(0..300, |seed| seed..seed + 1);
    let (mut restarts, mut checkpoints, mut adoptions) = (0, 0, 0);
    for seed in seeds {
        eprintln!("MASTER_SEED={seed}");
        let mut world = World::new(seed, one.is_some());
        world.run(20_000_000, true);
        world.run(60_000_000, false);
        world.check_progress();
        restarts += world.restarts;
        checkpoints += world.rows.len();
        adoptions += world.adoptions;
    }
    if one.is_none() {
        // The faults must have happened for the test to mean anything.
        assert!(restarts > 300, "{restarts} restarts");
        assert!(adoptions > 20, "{adoptions} adopted attempts");
        assert!(checkpoints > 3_000, "{checkpoints} checkpoints");
    }
}
