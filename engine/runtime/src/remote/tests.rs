//! The pump over a transport whose packets leave late.

use super::*;
use crate::channel::{ChannelOptions, channel};
use std::task::Waker;
use tidemill_net::packet::Packet;

/// A packet leaves after some turns.
#[derive(Default)]
struct Slow {
    turns: u32,
    sending: Option<Packet>,
    sent: Option<Packet>,
}

impl Transport for Slow {
    fn connections(&self) -> usize {
        1
    }
    fn can_write(&self, _: usize) -> bool {
        self.sending.is_none()
    }
    fn write(&mut self, _: usize, packet: Packet) {
        (self.sending, self.turns) = (Some(packet), 3);
    }
    fn written(&mut self, _: usize) -> Option<Packet> {
        self.sent.take()
    }
    fn read(&mut self, _: usize, _: &mut dyn FnMut(&[u8])) -> Read {
        Read::Empty
    }
    fn turn(&mut self) -> Result<()> {
        self.turns = self.turns.saturating_sub(1);
        if self.turns == 0 {
            self.sent = self.sending.take();
        }
        Ok(())
    }
    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }
    fn park(&mut self, _: Option<Micros>) -> Result<()> {
        Ok(())
    }
}

/// N4: who slept after the round in which the first packet left would leave the second element where it is.
#[test]
fn a_round_in_which_a_packet_leaves_has_worked() {
    let (mut tx, rx) = channel(ChannelOptions::default(), None, None);
    let peer = Peer { slot: 1, address: "elsewhere".into(), session: 1 };
    let channels = PeerChannels { sends: vec![(0, rx)], receives: Vec::new() };
    let mut pump = Pump::new(0, Slow::default(), vec![(peer, channels)], LinkOptions::default(), 0);
    tx.send(Element::Watermark(1));
    let mut rounds = Vec::new();
    for now in 0..6 {
        rounds.push(pump.round(now, false).unwrap() == Round::Worked);
        tx.send(Element::Watermark(2 + now as i64));
    }
    // Sent; on its way; it has left; the next one is sent, and so on.
    assert_eq!(rounds, [true, false, true, true, false, true]);
}
