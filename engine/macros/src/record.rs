//! `#[derive(Record)]`: the generated types, then the implementations.

mod archive;
mod types;
mod views;

use crate::model::Model;
use proc_macro2::TokenStream;
use quote::quote;

pub(crate) fn derive(model: &Model) -> TokenStream {
    let types = types::define(model);
    let views = views::implement(model);
    let record = archive::implement(model);
    quote! {
        #types
        const _: () = {
            #views
            #record
        };
    }
}
