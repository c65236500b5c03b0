//! Both sides against a naive model: a pool of buffers that are somewhere.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    /// The producer has a batch; sent where allowed, or by force.
    Send { units: u64, force: bool },
    /// The oldest batch on its way arrives.
    Arrive,
    /// The consumer is done with one of its batches.
    Read(proptest::sample::Index),
    /// The receiver grants, and the grant is on its way.
    Grant,
    /// The oldest grant arrives.
    Granted,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (1..4u64, any::<bool>()).prop_map(|(u, f)| Operation::Send { units: u, force: f && u == 1 }),
        4 => Just(Operation::Arrive),
        4 => any::<proptest::sample::Index>().prop_map(Operation::Read),
        3 => Just(Operation::Grant),
        3 => Just(Operation::Granted),
    ]
}

/// The naive model: where each batch is.
#[derive(Default)]
struct World {
    on_the_way: VecDeque<u64>,
    in_use: Vec<u64>,
    grants: VecDeque<u64>,
    /// Batches whose buffer the producer does not have back.
    withheld: usize,
    read: u64,
}

proptest! {
    #[test]
    fn the_model_holds(window in 1..9u64, pool in 1..9usize, operations in proptest::collection::vec(operation(), 1..400)) {
        let mut sender = SendCredit::default();
        let mut receiver = ReceiveCredit::new(window);
        let mut world = World::default();
        let mut sent = 0;
        for operation in operations {
            match operation {
                // A producer has at most its pool.
                Operation::Send { .. } if world.withheld >= pool => {}
                Operation::Send { units, force } => {
                    if !sender.may_send() && !force {
                        continue;
                    }
                    if let Some(until) = sender.send(units)
                        && sender.withhold(until, ()).is_none()
                    {
                        world.withheld += 1;
                    }
                    sent += units;
                    world.on_the_way.push_back(units);
                }
                Operation::Arrive => if let Some(units) = world.on_the_way.pop_front() {
                    receiver.receive(units);
                    world.in_use.push(units);
                },
                Operation::Read(which) => if !world.in_use.is_empty() {
                    let at = which.index(world.in_use.len());
                    world.read += world.in_use.swap_remove(at);
                },
                Operation::Grant => {
                    let more = receiver.grant(world.in_use.iter().sum());
                    if more > 0 {
                        world.grants.push_back(more);
                    }
                    // E3
                    prop_assert!(receiver.granted <= window + world.read);
                }
                Operation::Granted => if let Some(units) = world.grants.pop_front() {
                    sender.grant(units);
                    while sender.release().is_some() {
                        world.withheld -= 1;
                    }
                },
            }
            // E1, E2: what was forced is at most what is withheld.
            let outstanding: u64 = world.on_the_way.iter().chain(&world.in_use).sum();
            prop_assert!(outstanding <= window + pool as u64 + 3, "{outstanding} units");
            prop_assert_eq!(sender.withheld(), world.withheld);
        }
        // E4: once all is read and granted, nothing is withheld and the window is open again.
        for units in world.on_the_way.drain(..) {
            receiver.receive(units);
        }
        world.grants.push_back(receiver.grant(0));
        for units in world.grants.drain(..) {
            sender.grant(units);
        }
        while sender.release().is_some() {}
        prop_assert_eq!(sender.withheld(), 0);
        prop_assert!(sender.may_send(), "sent {} of {} granted", sent, sender.granted);
    }
}

#[test]
fn small_grants_wait_for_each_other() {
    let mut receiver = ReceiveCredit::new(8);
    assert_eq!(receiver.grant(0), 8);
    receiver.receive(1);
    assert_eq!(receiver.grant(0), 0, "seven are left, one is not worth a frame");
    receiver.receive(3);
    assert_eq!(receiver.grant(0), 4);
    receiver.receive(6);
    assert_eq!(receiver.grant(5), 1, "the sender is nearly out");
}
