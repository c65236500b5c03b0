//! The job in two worker processes: its slots in two parts, connected in memory, with deliveries as
//! partial and late as the seed says.

use crate::rng::Rng;
use crate::scenario::Wires;
use std::ops::Range;
use std::sync::Arc;
use tidemill_net::link::LinkOptions;
use tidemill_net::transport::memory::{Faults, MemoryTransport};
use tidemill_ring::Doorbell;
use tidemill_runtime::deploy::{Blueprint, DeployOptions, JobPlan, SlotPart, deploy, deploy_part};
use tidemill_runtime::remote::{Peer, Pump};

/// What a slot is made of.
pub(super) type Seated = (Vec<Blueprint>, Option<Pump<MemoryTransport>>);

/// Deploys the job in one process.
pub(super) fn seated(
    plan: &JobPlan,
    doorbells: &[Arc<Doorbell>],
    options: &DeployOptions,
) -> tidemill::Result<Vec<Seated>> {
    Ok(deploy(plan, doorbells, options)?.into_iter().map(|slot| (slot, None)).collect())
}

/// Deploys the job in two parts; `cut`: one of the connections will break.
pub(super) fn deploy_split(
    plan: &JobPlan,
    doorbells: &[Arc<Doorbell>],
    options: &DeployOptions,
    wires: Wires,
    cut: bool,
) -> tidemill::Result<Vec<Seated>> {
    let slots = plan.slots();
    let split = if slots < 2 { slots } else { 1 + wires.split as usize % (slots - 1) };
    let part = |range: Range<usize>| {
        let local = range.start as u32..range.end as u32;
        deploy_part(plan, &doorbells[range], options, local)
    };
    let mut parts: Vec<SlotPart> = part(0..split)?;
    if split < slots {
        parts.extend(part(split..slots)?);
    }
    let mut transports: Vec<_> = parts.iter().map(|_| MemoryTransport::new()).collect();
    let mut rng = Rng::new(wires.faults.seed);
    for a in 0..split {
        for b in (split..slots).filter(|&b| parts[a].remote.contains_key(&(b as u32))) {
            let faults = [0, 1].map(|_| Faults {
                seed: rng.draw(),
                cut_at: (cut && rng.percent(40)).then(|| rng.below(60_000)),
                ..wires.faults
            });
            let (left, right) = transports.split_at_mut(b);
            MemoryTransport::connect(&mut left[a], &mut right[0], faults);
        }
    }
    let seated = parts.into_iter().zip(transports).map(|(part, transport)| {
        let own = part.slot;
        let partners: Vec<_> = part
            .remote
            .into_iter()
            .map(|(slot, channels)| {
                // Both ends name the pair alike.
                let session = own.min(slot) << 16 | own.max(slot);
                (Peer { slot, address: String::from("memory"), session }, channels)
            })
            .collect();
        let options = LinkOptions::default();
        let pump = (!partners.is_empty()).then(|| Pump::new(own, transport, partners, options, 0));
        (part.blueprints, pump)
    });
    Ok(seated.collect())
}
