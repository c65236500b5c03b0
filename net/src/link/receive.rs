//! Bytes into elements.

use super::{Inbound, Link, Outbound};
use crate::error::Broken;
use crate::frame::{Header, Kind, LINK, batch, control};
use tidemill_base::batch::credits;
use tidemill_base::{Batch, Buffer, Element, Micros};

/// The rings behind a link.
pub trait Port {
    /// A buffer of at least so many bytes for inbound channel `at`: a pooled one if they fit, otherwise
    /// a dedicated one. `None` if more is in use than any peer may cause.
    fn buffer(&mut self, at: usize, bytes: usize) -> Option<Buffer>;

    /// An element of inbound channel `at`, in order.
    fn deliver(&mut self, at: usize, element: Element);

    /// A batch of outbound channel `at` whose buffer may go back to the producer.
    fn release(&mut self, at: usize, batch: Batch);
}

impl Link {
    /// Takes in bytes as they arrive, and delivers what is whole.
    ///
    /// # Errors
    /// Why the connection cannot go on (L5).
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now: Micros,
        port: &mut impl Port,
    ) -> Result<(), Broken> {
        self.heard_at = now;
        let Link { decoder, inbound, outbound, own, .. } = self;
        decoder.feed(bytes, |header, payload| match header.kind {
            Kind::Batch | Kind::Control => {
                let at = inbound.iter().position(|i| i.channel == header.channel);
                let at = at.ok_or_else(|| unknown(header.channel))?;
                inbound[at].frame(at, header, payload, now, port)
            }
            Kind::Credit | Kind::Ping | Kind::Goodbye => {
                if header.channel != LINK {
                    return Err(unknown(header.channel));
                }
                in_order(&header, &mut own.1)?;
                match header.kind {
                    Kind::Credit => grants(outbound, payload, port),
                    Kind::Ping => Ok(()),
                    _ => Err(Broken::Goodbye(String::from_utf8_lossy(payload).into_owned())),
                }
            }
        })
    }
}

fn unknown(channel: u32) -> Broken {
    Broken::Foreign(format!("a frame of channel {channel}, which this connection does not carry"))
}

fn in_order(header: &Header, expected: &mut u64) -> Result<(), Broken> {
    if header.sequence != *expected {
        let Header { channel, sequence: got, .. } = *header;
        return Err(Broken::Order { channel, got, expected: *expected });
    }
    *expected += 1;
    Ok(())
}

fn grants(outbound: &mut [Outbound], payload: &[u8], port: &mut impl Port) -> Result<(), Broken> {
    let (grants, rest) = payload.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Broken::Damaged(format!("a credit frame of {} bytes", payload.len())));
    }
    for [a, b, c, d, units @ ..] in grants {
        let channel = u32::from_le_bytes([*a, *b, *c, *d]);
        let at = outbound.iter().position(|o| o.channel == channel);
        let at = at.ok_or_else(|| unknown(channel))?;
        let credit = &mut outbound[at].credit;
        credit.grant(u64::from(u32::from_le_bytes(*units)));
        while let Some(batch) = credit.release() {
            port.release(at, batch);
        }
    }
    Ok(())
}

impl Inbound {
    fn frame(
        &mut self,
        at: usize,
        header: Header,
        payload: &[u8],
        now: Micros,
        port: &mut impl Port,
    ) -> Result<(), Broken> {
        in_order(&header, &mut self.sequence)?;
        if self.ended {
            return Err(self.against("a frame after its end"));
        }
        let element = if header.kind == Kind::Batch {
            self.batch(at, payload, now, port)?
        } else {
            let element = control::decode(payload, now)?;
            self.check(&element)?;
            element
        };
        port.deliver(at, element);
        Ok(())
    }

    fn batch(
        &mut self,
        at: usize,
        payload: &[u8],
        now: Micros,
        port: &mut impl Port,
    ) -> Result<Element, Broken> {
        let packed = batch::Packed::new(payload)?;
        let bytes = packed.bytes();
        let buffer = port.buffer(at, bytes);
        let buffer = buffer.ok_or_else(|| self.against("more batches than it has credits"))?;
        self.credit.receive(credits(bytes) as u64);
        Ok(Element::Batch(packed.unpack(buffer, now)?))
    }

    /// The grammar of a channel; what follows relies on it.
    fn check(&mut self, element: &Element) -> Result<(), Broken> {
        match element {
            Element::Watermark(w) if *w < self.watermark => {
                return Err(self.against("a watermark that retreats"));
            }
            Element::Watermark(w) => self.watermark = *w,
            Element::Barrier(b) if b.epoch <= self.epoch => {
                return Err(self.against("a barrier of an older epoch"));
            }
            Element::Barrier(b) => self.epoch = b.epoch,
            Element::End => self.ended = true,
            Element::Status(_) | Element::Batch(_) => {}
        }
        Ok(())
    }

    fn against(&self, what: &str) -> Broken {
        Broken::Protocol(format!("channel {} has {what}", self.channel))
    }
}
