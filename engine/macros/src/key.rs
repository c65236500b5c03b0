//! `#[derive(Key)]`.

use crate::model::{Model, Variant, binding};
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Error, Index, Result, parse_quote};

/// Standard tuples implement `Default` up to here.
const FIELDS_MAX: usize = 12;

pub(crate) fn derive(model: &Model) -> Result<TokenStream> {
    let (base, name) = (&model.base, &model.name);
    let methods = if model.is_enum { of_enum(model)? } else { of_struct(model)? };
    let mut generics = model.generics.clone();
    for param in model.generics.type_params() {
        let ident = &param.ident;
        generics.make_where_clause().predicates.push(parse_quote!(#ident: #base::key::Key));
    }
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics #base::key::Key for #name #ty_generics #where_clause {
            #methods
        }
    })
}

fn of_struct(model: &Model) -> Result<TokenStream> {
    let (base, variant) = (&model.base, &model.variants[0]);
    let n = variant.fields.len();
    if n > FIELDS_MAX {
        let what = format!("{n} fields: a key has at most {FIELDS_MAX}, group some in a struct");
        return Err(Error::new(model.name.span(), what));
    }
    let (view_name, bind) = (model.view_name(), variant.bind("v"));
    let (any, a) = (model.view_with(quote!('_)), model.view_with(quote!('a)));
    let keys = as_keys(variant, base);
    let values: Vec<_> = (0..n).map(|i| binding("v", i)).collect();
    let slots: Vec<_> = (0..n).map(Index::from).collect();
    let hash = match (keys.split_first(), values.split_first()) {
        (Some((key, keys)), Some((value, values))) => quote! {
            let __hash = #key::hash(#value);
            #(let __hash = #base::hash::combine(__hash, #keys::hash(#values));)*
            __hash
        },
        _ => quote!(#base::hash::hash_u64(0)),
    };
    let load = variant.braces(|i, _| {
        let (key, slot) = (&keys[i], &slots[i]);
        quote!(#key::load(&__slot.#slot, __heap))
    });
    Ok(quote! {
        type Slot = (#(#keys::Slot,)*);
        #[inline(always)]
        fn hash(__view: #any) -> u64 {
            let #view_name #bind = __view;
            #hash
        }
        #[inline(always)]
        fn store(__view: #any, __heap: &mut #base::key::KeyHeap) -> Self::Slot {
            let #view_name #bind = __view;
            (#(#keys::store(#values, __heap),)*)
        }
        #[inline(always)]
        fn matches(__slot: &Self::Slot, __view: #any, __heap: &#base::key::KeyHeap) -> bool {
            let #view_name #bind = __view;
            true #(&& #keys::matches(&__slot.#slots, #values, __heap))*
        }
        #[inline(always)]
        fn load<'a>(__slot: &'a Self::Slot, __heap: &'a #base::key::KeyHeap) -> #a {
            #view_name #load
        }
        #[inline(always)]
        fn free(__slot: &Self::Slot, __heap: &mut #base::key::KeyHeap) {
            #(#keys::free(&__slot.#slots, __heap);)*
        }
    })
}

/// `<ty as Key>` of each field, with the span of the type.
fn as_keys(variant: &Variant, base: &TokenStream) -> Vec<TokenStream> {
    let fields = variant.fields.iter().map(|f| &f.ty);
    fields.map(|ty| quote_spanned!(ty.span()=> <#ty as #base::key::Key>)).collect()
}

fn of_enum(model: &Model) -> Result<TokenStream> {
    let base = &model.base;
    if let Some(variant) = model.variants.iter().find(|v| !v.fields.is_empty()) {
        let what = "a key cannot be an enum with fields: use a struct of an enum and its values";
        return Err(Error::new(variant.ident.span(), what));
    }
    let view = model.view_name();
    let paths: Vec<_> = model.variants.iter().map(|v| model.path(&view, v)).collect();
    let indices: Vec<_> = (0..=u8::MAX).take(paths.len()).collect();
    let positions = quote!(match __view { #(#paths {} => #indices,)* });
    let (Some(last), others) = (paths.last(), &paths[..paths.len() - 1]) else {
        return Err(Error::new(model.name.span(), "a key has at least one value"));
    };
    let others = others.iter().zip(&indices).map(|(path, index)| quote!(#index => #path {},));
    Ok(quote! {
        type Slot = u8;
        #[inline(always)]
        fn hash(__view: #view) -> u64 {
            let __position: u8 = #positions;
            #base::hash::hash_u64(__position as u64)
        }
        #[inline(always)]
        fn store(__view: #view, _: &mut #base::key::KeyHeap) -> u8 {
            #positions
        }
        #[inline(always)]
        fn matches(__slot: &u8, __view: #view, _: &#base::key::KeyHeap) -> bool {
            let __position: u8 = #positions;
            *__slot == __position
        }
        #[inline(always)]
        fn load<'a>(__slot: &'a u8, _: &'a #base::key::KeyHeap) -> #view {
            match *__slot {
                #(#others)*
                _ => #last {},
            }
        }
        #[inline(always)]
        fn free(_: &u8, _: &mut #base::key::KeyHeap) {}
    })
}
