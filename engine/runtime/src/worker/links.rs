//! From connected sockets and the channels that they are to carry to a slot's pump.

use crate::deploy::PeerChannels;
use crate::remote::{Peer, Pump};
use std::collections::BTreeMap;
use tidemill_base::{Error, Micros, Result};
use tidemill_net::Connection;
use tidemill_net::link::LinkOptions;
use tidemill_net::transport::uring::UringTransport;

/// Connections by the slots that they connect, ours first.
pub(super) fn by_pair(connections: Vec<Connection>) -> BTreeMap<(u32, u32), Connection> {
    connections.into_iter().map(|c| ((c.own, c.peer), c)).collect()
}

/// Takes the connections that a slot's channels need.
pub(super) fn of_slot(
    slot: u32,
    remote: BTreeMap<u32, PeerChannels>,
    connections: &mut BTreeMap<(u32, u32), Connection>,
) -> Result<Vec<(Connection, PeerChannels)>> {
    let mut wires = Vec::with_capacity(remote.len());
    for (peer, channels) in remote {
        let connection = connections.remove(&(slot, peer)).ok_or_else(|| {
            Error::attempt(format!(
                "slot {slot} has channels to slot {peer} of another process, but no connection: \
                 the addresses of all workers must be known before the slots start"
            ))
        })?;
        wires.push((connection, channels));
    }
    Ok(wires)
}

/// The pump of a slot, on the thread that will use it.
pub(super) fn pump(
    slot: u32,
    wires: Vec<(Connection, PeerChannels)>,
    options: LinkOptions,
    now: Micros,
) -> Result<Pump<UringTransport>> {
    let (mut streams, mut partners) = (Vec::new(), Vec::new());
    for (connection, channels) in wires {
        let Connection { peer, address, session, stream, .. } = connection;
        streams.push(stream);
        partners.push((Peer { slot: peer, address: address.to_string(), session }, channels));
    }
    let transport = UringTransport::new(streams)?;
    Ok(Pump::new(slot, transport, partners, options, now))
}
