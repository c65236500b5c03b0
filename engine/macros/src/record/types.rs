//! The types that users can name: view, archive, resolver.

use crate::model::{Field, Model, Style, Variant};
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Generics, Ident};

pub(crate) fn define(model: &Model) -> TokenStream {
    let (base, name) = (&model.base, &model.name);
    let rkyv = quote!(#base::rkyv);
    let repr = if model.is_enum { quote!(#[repr(u8)]) } else { quote!(#[repr(C)]) };

    let doc = format!("[`{name}`] borrowed: from an owned value or from its archive.");
    let view =
        definition(model, &model.view_name(), &model.view_generics(), |f| f.view.tokens.clone());
    let view = quote!(#[doc = #doc] #view);

    let doc = format!("[`{name}`] in a buffer, with rkyv's layout.");
    let archived = definition(model, &model.archived_name(), &model.generics, |f| {
        let ty = &f.ty;
        quote_spanned!(ty.span()=> <#ty as #rkyv::Archive>::Archived)
    });
    let archived = quote! {
        #[doc = #doc]
        #[derive(#rkyv::Portable, #rkyv::bytecheck::CheckBytes)]
        #[rkyv(crate = #rkyv)]
        #[bytecheck(crate = #rkyv::bytecheck)]
        #repr
        #archived
    };

    let doc = format!("What archiving a [`{name}`] carries from its first half to its second.");
    let resolver = definition(model, &model.resolver_name(), &model.generics, |f| {
        let ty = &f.ty;
        quote_spanned!(ty.span()=> <#ty as #rkyv::Archive>::Resolver)
    });
    quote! {
        #view
        #archived
        #[doc = #doc]
        #[doc(hidden)]
        #resolver
    }
}

/// A type of the same variants as the record, its field types given by `ty`.
fn definition(
    model: &Model,
    name: &Ident,
    generics: &Generics,
    ty: impl Fn(&Field) -> TokenStream,
) -> TokenStream {
    let (vis, where_clause) = (&model.vis, &generics.where_clause);
    let allow = quote!(#[allow(dead_code, missing_docs, reason = "derived")]);
    if model.is_enum {
        let variants = model.variants.iter().map(|v: &Variant| {
            let (docs, ident, fields) = (&v.docs, &v.ident, v.define(&ty));
            quote!(#(#docs)* #ident #fields)
        });
        return quote!(#allow #vis enum #name #generics #where_clause { #(#variants,)* });
    }
    let fields = model.variants[0].define(&ty);
    match model.variants[0].style {
        Style::Named => quote!(#allow #vis struct #name #generics #where_clause #fields),
        Style::Tuple | Style::Unit => {
            quote!(#allow #vis struct #name #generics #fields #where_clause;)
        }
    }
}
