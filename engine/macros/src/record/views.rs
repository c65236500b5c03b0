//! What a view can do: `Copy`, `Debug`, `PartialEq`, and to become an owned record.

use crate::model::{Model, Style, binding};
use proc_macro2::TokenStream;
use quote::quote;
use syn::Member;

pub(crate) fn implement(model: &Model) -> TokenStream {
    let (base, name) = (&model.base, &model.name);
    let generics = model.view_generics();
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let (_, record_generics, _) = model.generics.split_for_impl();
    let view_name = model.view_name();
    let view = quote!(#view_name #ty_generics);
    let record = quote!(#name #record_generics);
    let (debug, equal) = (debug_arms(model), equal_arms(model));
    quote! {
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics ::core::clone::Clone for #view #where_clause {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics ::core::marker::Copy for #view #where_clause {}
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics ::core::fmt::Debug for #view #where_clause {
            fn fmt(&self, __f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self { #debug }
            }
        }
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics ::core::cmp::PartialEq for #view #where_clause {
            #[inline]
            fn eq(&self, __other: &Self) -> bool {
                match (self, __other) { #equal }
            }
        }
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics #view #where_clause {
            /// The owned record; allocates where the type does.
            #[inline]
            #[allow(dead_code, reason = "derived")]
            pub fn to_record(self) -> #record {
                <#record as #base::record::Record>::from_view(self)
            }
        }
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics ::core::convert::From<#view> for #record #where_clause {
            #[inline]
            fn from(__view: #view) -> Self {
                <Self as #base::record::Record>::from_view(__view)
            }
        }
    }
}

fn debug_arms(model: &Model) -> TokenStream {
    let arms = model.variants.iter().map(|v| {
        let path = model.path(&model.view_name(), v);
        let (bind, label) = (v.bind("v"), v.ident.to_string());
        let fields = v.fields.iter().enumerate().map(|(i, f)| {
            let value = binding("v", i);
            match &f.member {
                Member::Named(name) => {
                    let name = name.to_string();
                    quote!(.field(#name, #value))
                }
                Member::Unnamed(_) => quote!(.field(#value)),
            }
        });
        match v.style {
            Style::Named => quote!(#path #bind => __f.debug_struct(#label)#(#fields)*.finish()),
            Style::Tuple => quote!(#path #bind => __f.debug_tuple(#label)#(#fields)*.finish()),
            Style::Unit => quote!(#path #bind => __f.write_str(#label)),
        }
    });
    quote!(#(#arms,)*)
}

fn equal_arms(model: &Model) -> TokenStream {
    let arms = model.variants.iter().map(|v| {
        let path = model.path(&model.view_name(), v);
        let (left, right) = (v.bind("l"), v.bind("r"));
        let equal = (0..v.fields.len()).map(|i| {
            let (l, r) = (binding("l", i), binding("r", i));
            quote!(&& *#l == *#r)
        });
        quote!((#path #left, #path #right) => true #(#equal)*)
    });
    let other = (model.variants.len() > 1).then(|| quote!(_ => false,));
    quote!(#(#arms,)* #other)
}
