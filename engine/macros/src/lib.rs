//! `#[derive(Record)]` and `#[derive(Key)]`.
//!
//! Users meet them as `tidemill::{Record, Key}`. Crates below `tidemill` (and these examples) name
//! the path to `tidemill_base` by `#[record(crate = tidemill_base)]`.
//!
//! ```
//! use tidemill_base::record::{Record as _, shape_of};
//! use tidemill_macros::{Key, Record};
//!
//! #[derive(Record, Debug, PartialEq)]
//! #[record(crate = tidemill_base)]
//! struct Bid {
//!     auction: u64,
//!     url: String,
//!     kind: Kind,
//! }
//!
//! #[derive(Record, Key, Debug, PartialEq)]
//! #[record(crate = tidemill_base)]
//! enum Kind {
//!     Web,
//!     Phone,
//! }
//!
//! let bid = Bid { auction: 7, url: "/a".into(), kind: Kind::Phone };
//! let view: BidView<'_> = bid.view();
//! assert_eq!((view.auction, view.url, view.kind), (7, "/a", KindView::Phone));
//! assert_eq!(view.to_record(), bid);
//! assert_eq!(shape_of::<Bid>(), "Bid{auction:u64,url:str,kind:Kind{Web|Phone}}");
//! ```
//!
//! A field that is not a record does not compile, and the error points at the field:
//!
//! ```compile_fail,E0277
//! # use tidemill_macros::Record;
//! #[derive(Record)]
//! #[record(crate = tidemill_base)]
//! struct Holder {
//!     thread: std::thread::Thread,
//! }
//! ```
//!
//! The same with a record in its place compiles:
//!
//! ```
//! # use tidemill_macros::Record;
//! #[derive(Record)]
//! #[record(crate = tidemill_base)]
//! struct Holder {
//!     thread: u64,
//! }
//! ```

#![forbid(unsafe_code)]

mod key;
mod model;
mod record;
mod view_type;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Makes a struct or an enum a record.
///
/// For `Bid` it generates, with the visibility of `Bid` and of its fields:
/// - `BidView<'a>`: the borrowed form, `Copy`, with native field types (`u64`, `&'a str`), and
///   `BidView::to_record`, `From<BidView<'_>> for Bid`. It has no lifetime if all fields are
///   numbers, `bool`, `char` or options, arrays and tuples of these.
/// - `ArchivedBid`: the form in a buffer, with the layout that rkyv's own derive gives.
/// - `BidResolver`: what archiving carries from its first half to its second.
///
/// The type must not have other items of these names beside it. Type parameters are allowed and
/// must be records; lifetimes are not, nor are types that contain themselves. The view of a field
/// is found by its name: do not shadow `String`, `Vec`, `Option` or a primitive.
///
/// Discriminants are not stored: a variant is stored by its position, so that new variants go to
/// the end. `#[record(crate = path)]` names the path to `tidemill_base`.
#[proc_macro_derive(Record, attributes(record))]
pub fn derive_record(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let model = model::Model::new(input);
    model.map_or_else(Error::into_compile_error, |m| record::derive(&m)).into()
}

/// Makes a record that consists of keys a key: a struct of up to twelve keys, or an enum without
/// fields.
///
/// The hash is part of the checkpoint format and never changes: that of a struct is
/// `combine(.. combine(combine(h0, h1), h2) .., hn)` over the hashes of its fields in their order,
/// with one field that field's hash, with none `hash_u64(0)`; that of an enum is `hash_u64` of the
/// variant's position. Moving fields or variants therefore moves keys to other key groups.
#[proc_macro_derive(Key, attributes(record))]
pub fn derive_key(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let model = model::Model::new(input);
    model.and_then(|m| key::derive(&m)).unwrap_or_else(Error::into_compile_error).into()
}
