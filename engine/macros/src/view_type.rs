//! The type of a field in the view.
//!
//! `<F as Record>::View<'a>` would do for every `F`, but the compiler treats a projection as
//! invariant in `'a` and documentation shows it as it stands. The built-in records are therefore
//! spelled out, which also tells whether they borrow at all.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{GenericArgument, Path, PathArguments, Type};

/// The view of a field.
pub(crate) struct ViewType {
    /// With the lifetime `'a`.
    pub(crate) tokens: TokenStream,
    /// Whether `'a` occurs in it.
    pub(crate) borrows: bool,
}

const NATIVE: [&str; 14] = [
    "u8", "u16", "u32", "u64", "u128", "i8", "i16", "i32", "i64", "i128", "f32", "f64", "bool",
    "char",
];

pub(crate) fn view_type(ty: &Type, base: &TokenStream) -> ViewType {
    let owned = |tokens| ViewType { tokens, borrows: false };
    let borrowed = |tokens| ViewType { tokens, borrows: true };
    match ty {
        Type::Group(group) => return view_type(&group.elem, base),
        Type::Paren(paren) => return view_type(&paren.elem, base),
        Type::Tuple(tuple) => {
            let views: Vec<ViewType> = tuple.elems.iter().map(|t| view_type(t, base)).collect();
            let borrows = views.iter().any(|v| v.borrows);
            let tokens = views.iter().map(|v| &v.tokens);
            return ViewType { tokens: quote!((#(#tokens,)*)), borrows };
        }
        Type::Array(array) => {
            let (view, len) = (view_type(&array.elem, base), &array.len);
            let tokens = view.tokens;
            return ViewType { tokens: quote!([#tokens; #len]), borrows: view.borrows };
        }
        Type::Path(path) if path.qself.is_none() => {
            let path = &path.path;
            if NATIVE.iter().any(|name| path.is_ident(name)) {
                return owned(quote!(#ty));
            }
            if is_std(path, "string", "String") && argument(path).is_none() {
                return borrowed(quote_spanned!(ty.span()=> &'a str));
            }
            if let (true, Some(item)) = (is_std(path, "vec", "Vec"), argument(path)) {
                return borrowed(quote_spanned!(ty.span()=> #base::record::List<'a, #item>));
            }
            if let (true, Some(item)) = (is_std(path, "option", "Option"), argument(path)) {
                let view = view_type(item, base);
                let tokens = view.tokens;
                let tokens = quote!(::core::option::Option<#tokens>);
                return ViewType { tokens, borrows: view.borrows };
            }
        }
        _ => {}
    }
    borrowed(quote_spanned!(ty.span()=> <#ty as #base::record::Record>::View<'a>))
}

/// Whether the path is `name`, or `std::module::name` and the like.
fn is_std(path: &Path, module: &str, name: &str) -> bool {
    let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
    match segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [only] => only == name,
        [krate, m, last] => {
            ["std", "core", "alloc"].contains(&krate) && m == module && last == name
        }
        _ => false,
    }
}

/// The single type argument of the last segment.
fn argument(path: &Path) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &path.segments.last()?.arguments else {
        return None;
    };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if arguments.args.len() == 1 => Some(ty),
        _ => None,
    }
}
