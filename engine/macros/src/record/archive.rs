//! `impl Record` and `impl rkyv::Archive`.
//!
//! An archived enum is `repr(u8)`, so each variant has the layout of a `repr(C)` struct of the tag
//! and the variant's fields (RFC 2195). Variants are written through such structs.

use crate::model::{Model, Style, Variant, binding};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Ident, Member};

pub(crate) fn implement(model: &Model) -> TokenStream {
    let (base, name) = (&model.base, &model.name);
    let rkyv = quote!(#base::rkyv);
    let (impl_generics, ty_generics, where_clause) = model.generics.split_for_impl();
    let (archived, resolver) = (model.archived_name(), model.resolver_name());
    let layouts = if model.is_enum { layouts(model) } else { quote!() };
    let methods = methods(model);
    quote! {
        #layouts
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics #rkyv::Archive for #name #ty_generics #where_clause {
            type Archived = #archived #ty_generics;
            type Resolver = #resolver #ty_generics;
            #[inline]
            fn resolve(&self, __resolver: Self::Resolver, __out: #rkyv::Place<Self::Archived>) {
                let __view = <Self as #base::record::Record>::view(self);
                <Self as #base::record::Record>::resolve_view(__view, __resolver, __out)
            }
        }
        #[automatically_derived]
        #[allow(clippy::all, reason = "derived")]
        impl #impl_generics #base::record::Record for #name #ty_generics #where_clause {
            #methods
        }
    }
}

fn methods(model: &Model) -> TokenStream {
    let (base, name, view) = (&model.base, &model.name, &model.view_name());
    let archived = &model.archived_name();
    let rkyv = quote!(#base::rkyv);
    let with = |lifetime| model.view_with(lifetime);
    let (any, a) = (with(quote!('_)), with(quote!('a)));
    let (short, long) = (with(quote!('short)), with(quote!('long)));
    let view_arms = convert(model, name, view, "view");
    let archived_arms = convert(model, archived, view, "view_archived");
    let owned_arms = convert(model, view, name, "from_view");
    let shorten_arms = convert(model, view, view, "shorten");
    let owned_bytes = owned_bytes(model);
    let (serialize, resolve, shape) = (serialize(model), resolve(model), shape(model));
    // Matches of many variants are left to the compiler's judgement.
    let inline =
        if model.variants.len() > 4 { quote!(#[inline]) } else { quote!(#[inline(always)]) };
    let fields = model.variants.iter().flat_map(|v| &v.fields).map(|f| &f.as_record);
    let fields: Vec<_> = fields.collect();
    let plain = quote!(true #(&& #fields::PLAIN)*);
    // Of an enum, what is written depends on the variant.
    let written = if model.is_enum { quote!(0) } else { quote!(0 #(+ #fields::WRITTEN)*) };
    quote! {
        const PLAIN: bool = #plain;
        const WRITTEN: usize = #written;
        type View<'a> = #a;
        #inline
        fn view(&self) -> #any {
            match self { #view_arms }
        }
        #inline
        fn view_archived(__archived: &Self::Archived) -> #any {
            match __archived { #archived_arms }
        }
        #[inline]
        fn from_view(__view: #any) -> Self {
            match __view { #owned_arms }
        }
        #inline
        fn shorten<'short, 'long: 'short>(__view: #long) -> #short {
            match __view { #shorten_arms }
        }
        #inline
        fn serialize_view(
            __view: #any,
            __out: &mut #base::record::Encoder<'_>,
        ) -> ::core::result::Result<Self::Resolver, #rkyv::rancor::Failure> {
            ::core::result::Result::Ok(match __view { #serialize })
        }
        #inline
        fn resolve_view(
            __view: #any,
            __resolver: Self::Resolver,
            __out: #rkyv::Place<Self::Archived>,
        ) {
            match (__view, __resolver) { #resolve }
        }
        #[inline]
        fn owned_bytes(&self) -> usize {
            match self { #owned_bytes }
        }
        fn shape(__out: &mut ::std::string::String) {
            #shape
        }
    }
}

fn owned_bytes(model: &Model) -> TokenStream {
    let arms = model.variants.iter().map(|v| {
        let (from, bind) = (model.path(&model.name, v), v.bind("v"));
        let fields = v.fields.iter().enumerate().map(|(i, f)| {
            let (as_record, value) = (&f.as_record, binding("v", i));
            quote!(.saturating_add(#as_record::owned_bytes(#value)))
        });
        quote!(#from #bind => 0usize #(#fields)*)
    });
    quote!(#(#arms,)*)
}

/// Arms that turn each variant of `from` into that of `to`, field by field, by a method of
/// `Record`.
fn convert(model: &Model, from: &Ident, to: &Ident, method: &str) -> TokenStream {
    let method = format_ident!("{method}");
    let arms = model.variants.iter().map(|v| {
        let (from, to, bind) = (model.path(from, v), model.path(to, v), v.bind("v"));
        let fields = v.braces(|i, f| {
            let (as_record, value) = (&f.as_record, binding("v", i));
            quote!(#as_record::#method(#value))
        });
        quote!(#from #bind => #to #fields)
    });
    quote!(#(#arms,)*)
}

fn serialize(model: &Model) -> TokenStream {
    let arms = model.variants.iter().map(|v| {
        let view = model.path(&model.view_name(), v);
        let (resolver, bind) = (model.path(&model.resolver_name(), v), v.bind("v"));
        let fields = v.braces(|i, f| {
            let (as_record, value) = (&f.as_record, binding("v", i));
            quote!(#as_record::serialize_view(#value, __out)?)
        });
        quote!(#view #bind => #resolver #fields)
    });
    quote!(#(#arms,)*)
}

fn resolve(model: &Model) -> TokenStream {
    let rkyv = {
        let base = &model.base;
        quote!(#base::rkyv)
    };
    let arms = model.variants.iter().enumerate().map(|(index, v)| {
        let view = model.path(&model.view_name(), v);
        let resolver = model.path(&model.resolver_name(), v);
        let (values, resolvers) = (v.bind("v"), v.bind("r"));
        let (start, member) = if model.is_enum {
            (resolve_tag(model, v, index), None)
        } else {
            (quote!(let __place = __out;), Some(()))
        };
        let fields = v.fields.iter().enumerate().map(|(i, f)| {
            let (value, resolver, as_record) = (binding("v", i), binding("r", i), &f.as_record);
            let own = &f.member;
            let field = binding("f", i);
            let member = member.map_or_else(|| quote!(#field), |()| quote!(#own));
            quote! {
                // SAFETY: the pointer is the place's own, projected to a field of it.
                let __field = unsafe {
                    let __at = ::core::ptr::addr_of_mut!((*__place.ptr()).#member);
                    #rkyv::Place::from_field_unchecked(__place, __at)
                };
                #as_record::resolve_view(#value, #resolver, __field);
            }
        });
        quote!((#view #values, #resolver #resolvers) => { #start #(#fields)* })
    });
    let other = (model.variants.len() > 1)
        .then(|| quote!(_ => ::core::unreachable!("the resolver is of another variant"),));
    quote!(#(#arms,)* #other)
}

/// Casts the place to the variant's layout and writes the tag.
fn resolve_tag(model: &Model, variant: &Variant, index: usize) -> TokenStream {
    let layout = layout_name(variant);
    let (_, ty_generics, _) = model.generics.split_for_impl();
    let index = u8::try_from(index).unwrap_or(u8::MAX);
    quote! {
        // SAFETY: the archive is `repr(u8)`: each variant has the layout of this `repr(C)` struct.
        let __place = unsafe { __out.cast_unchecked::<#layout #ty_generics>() };
        // SAFETY: the first field of a `repr(C)` struct lies at its start.
        unsafe { __place.cast_unchecked::<u8>() }.write(#index);
    }
}

fn layout_name(variant: &Variant) -> Ident {
    format_ident!("__Layout{}", variant.ident)
}

/// The `repr(C)` struct of each variant: tag, fields, and the type parameters that may be unused.
fn layouts(model: &Model) -> TokenStream {
    let (base, name) = (&model.base, &model.name);
    let (generics, where_clause) = (&model.generics, &model.generics.where_clause);
    let (_, ty_generics, _) = model.generics.split_for_impl();
    let layouts = model.variants.iter().map(|v| {
        let layout = layout_name(v);
        let fields = v.fields.iter().enumerate().map(|(i, f)| {
            let (field, ty) = (binding("f", i), &f.ty);
            quote!(#field: <#ty as #base::rkyv::Archive>::Archived)
        });
        quote! {
            #[repr(C)]
            #[allow(dead_code, non_camel_case_types, reason = "derived")]
            struct #layout #generics #where_clause {
                __tag: u8,
                #(#fields,)*
                __owner: ::core::marker::PhantomData<#name #ty_generics>,
            }
        }
    });
    quote!(#(#layouts)*)
}

/// Statements that append `Name{field:shape,..}`, `Name(shape,..)`, `Name` or `Name{A|B(shape)}`.
fn shape(model: &Model) -> TokenStream {
    if !model.is_enum {
        return shape_of_variant(&model.variants[0]);
    }
    let open = format!("{}{{", model.name);
    let variants = model.variants.iter().enumerate().map(|(i, v)| {
        let shape = shape_of_variant(v);
        let bar = (i > 0).then(|| quote!(__out.push('|');));
        quote!(#bar #shape)
    });
    quote!(__out.push_str(#open); #(#variants)* __out.push('}');)
}

fn shape_of_variant(variant: &Variant) -> TokenStream {
    let (open, close) = match variant.style {
        Style::Named => ("{", "}"),
        Style::Tuple => ("(", ")"),
        Style::Unit => ("", ""),
    };
    let open = format!("{}{open}", variant.ident);
    let fields = variant.fields.iter().enumerate().map(|(i, f)| {
        let comma = if i > 0 { "," } else { "" };
        let label = match &f.member {
            Member::Named(name) => format!("{comma}{name}:"),
            Member::Unnamed(_) => comma.to_owned(),
        };
        let as_record = &f.as_record;
        quote!(__out.push_str(#label); #as_record::shape(__out);)
    });
    quote!(__out.push_str(#open); #(#fields)* __out.push_str(#close);)
}
