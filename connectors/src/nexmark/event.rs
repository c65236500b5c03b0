//! Nexmark's events as records.

use tidemill_base::Timestamp;
use tidemill_macros::Record;

/// Somebody who sells and bids.
#[derive(Record, Clone, Debug, PartialEq, Eq)]
#[record(crate = tidemill_base)]
pub struct Person {
    /// Unique.
    pub id: u64,
    /// First and last name.
    pub name: String,
    /// Electronic mail.
    pub email_address: String,
    /// 16 digits in groups of four.
    pub credit_card: String,
    /// Where they live.
    pub city: String,
    /// The city's state, two letters.
    pub state: String,
    /// Event time, in milliseconds.
    pub date_time: Timestamp,
    /// Filler.
    pub extra: String,
}

/// Something for sale.
#[derive(Record, Clone, Debug, PartialEq, Eq)]
#[record(crate = tidemill_base)]
pub struct Auction {
    /// Unique.
    pub id: u64,
    /// What is for sale.
    pub item_name: String,
    /// More about it.
    pub description: String,
    /// In cents.
    pub initial_bid: u64,
    /// In cents.
    pub reserve: u64,
    /// Event time, in milliseconds.
    pub date_time: Timestamp,
    /// When it ends, in milliseconds.
    pub expires: Timestamp,
    /// Whose it is: [`Person::id`].
    pub seller: u64,
    /// What kind it is.
    pub category: u64,
    /// Filler.
    pub extra: String,
}

/// An offer.
#[derive(Record, Clone, Debug, PartialEq, Eq)]
#[record(crate = tidemill_base)]
pub struct Bid {
    /// For what: [`Auction::id`].
    pub auction: u64,
    /// Whose: [`Person::id`].
    pub bidder: u64,
    /// In cents.
    pub price: u64,
    /// By what channel.
    pub channel: String,
    /// From what page.
    pub url: String,
    /// Event time, in milliseconds.
    pub date_time: Timestamp,
    /// Filler.
    pub extra: String,
}

/// One of the three.
#[derive(Record, Clone, Debug, PartialEq, Eq)]
#[record(crate = tidemill_base)]
pub enum Event {
    /// A person has registered.
    Person(Person),
    /// An auction has begun.
    Auction(Auction),
    /// Somebody has bid.
    Bid(Bid),
}

impl Event {
    /// Event time, in milliseconds.
    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        match self {
            Event::Person(p) => p.date_time,
            Event::Auction(a) => a.date_time,
            Event::Bid(b) => b.date_time,
        }
    }
}

impl From<nexmark::event::Event> for Event {
    fn from(event: nexmark::event::Event) -> Self {
        use nexmark::event::Event as E;
        match event {
            E::Person(p) => Event::Person(Person {
                id: p.id as u64,
                name: p.name,
                email_address: p.email_address,
                credit_card: p.credit_card,
                city: p.city,
                state: p.state,
                date_time: p.date_time as i64,
                extra: p.extra,
            }),
            E::Auction(a) => Event::Auction(Auction {
                id: a.id as u64,
                item_name: a.item_name,
                description: a.description,
                initial_bid: a.initial_bid as u64,
                reserve: a.reserve as u64,
                date_time: a.date_time as i64,
                expires: a.expires as i64,
                seller: a.seller as u64,
                category: a.category as u64,
                extra: a.extra,
            }),
            E::Bid(b) => Event::Bid(Bid {
                auction: b.auction as u64,
                bidder: b.bidder as u64,
                price: b.price as u64,
                channel: b.channel,
                url: b.url,
                date_time: b.date_time as i64,
                extra: b.extra,
            }),
        }
    }
}
