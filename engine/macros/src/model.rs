//! What the derives need to know of a type.
//!
//! A struct is treated as one variant; all fields are reached as `Path { member: binding }`, which
//! Rust allows for named, tuple and unit variants alike.

use crate::view_type::{ViewType, view_type};
use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Data, DeriveInput, Error, Fields, GenericParam, Generics, Ident, Member, Path,
    Result, Type, Visibility, parse_quote,
};

/// A type to derive for.
pub(crate) struct Model {
    pub(crate) name: Ident,
    pub(crate) vis: Visibility,
    pub(crate) generics: Generics,
    /// Path to `tidemill_base`.
    pub(crate) base: TokenStream,
    pub(crate) is_enum: bool,
    /// One for a struct.
    pub(crate) variants: Vec<Variant>,
}

/// A variant of an enum, or the struct.
pub(crate) struct Variant {
    pub(crate) ident: Ident,
    pub(crate) docs: Vec<Attribute>,
    pub(crate) style: Style,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Style {
    Named,
    Tuple,
    Unit,
}

pub(crate) struct Field {
    pub(crate) member: Member,
    pub(crate) vis: Visibility,
    pub(crate) docs: Vec<Attribute>,
    pub(crate) ty: Type,
    /// `<ty as Record>`, with the span of the type, so that errors point there.
    pub(crate) as_record: TokenStream,
    pub(crate) view: ViewType,
}

impl Model {
    pub(crate) fn new(input: DeriveInput) -> Result<Model> {
        let base = base_path(&input.attrs)?;
        let generics = check_generics(input.generics, &base)?;
        let variant = |ident, docs: &[Attribute], fields| Variant::new(ident, docs, fields, &base);
        let (is_enum, variants) = match input.data {
            Data::Struct(data) => (false, vec![variant(input.ident.clone(), &[], data.fields)]),
            Data::Enum(data) => {
                let variants = data.variants.into_iter();
                (true, variants.map(|v| variant(v.ident, &v.attrs, v.fields)).collect())
            }
            Data::Union(data) => {
                let what = "a union cannot be a record: use an enum";
                return Err(Error::new(data.union_token.span, what));
            }
        };
        if variants.is_empty() || variants.len() > 256 {
            let what = format!("{} variants: a record has 1 to 256", variants.len());
            return Err(Error::new(input.ident.span(), what));
        }
        Ok(Model { name: input.ident, vis: input.vis, generics, base, is_enum, variants })
    }

    pub(crate) fn view_name(&self) -> Ident {
        format_ident!("{}View", self.name)
    }
    pub(crate) fn archived_name(&self) -> Ident {
        format_ident!("Archived{}", self.name)
    }
    pub(crate) fn resolver_name(&self) -> Ident {
        format_ident!("{}Resolver", self.name)
    }

    /// How `variant` of the generated type `name` is written: `Name` or `Name::Variant`.
    pub(crate) fn path(&self, name: &Ident, variant: &Variant) -> TokenStream {
        let ident = &variant.ident;
        if self.is_enum { quote!(#name::#ident) } else { quote!(#name) }
    }

    /// Whether the view has a lifetime.
    pub(crate) fn borrows(&self) -> bool {
        self.variants.iter().flat_map(|v| &v.fields).any(|f| f.view.borrows)
    }

    /// Generics of the view's definition, with its lifetime where it has one.
    pub(crate) fn view_generics(&self) -> Generics {
        let mut generics = self.generics.clone();
        if self.borrows() {
            generics.params.insert(0, parse_quote!('a));
        }
        generics
    }

    /// The view's type with `lifetime`.
    pub(crate) fn view_with(&self, lifetime: TokenStream) -> TokenStream {
        let view = self.view_name();
        let mut arguments = vec![];
        if self.borrows() {
            arguments.push(lifetime);
        }
        for param in &self.generics.params {
            match param {
                GenericParam::Type(p) => arguments.push({
                    let ident = &p.ident;
                    quote!(#ident)
                }),
                GenericParam::Const(p) => arguments.push({
                    let ident = &p.ident;
                    quote!(#ident)
                }),
                GenericParam::Lifetime(_) => {}
            }
        }
        if arguments.is_empty() { quote!(#view) } else { quote!(#view<#(#arguments),*>) }
    }
}

impl Variant {
    fn new(ident: Ident, docs: &[Attribute], fields: Fields, base: &TokenStream) -> Variant {
        let style = match &fields {
            Fields::Named(_) => Style::Named,
            Fields::Unnamed(_) => Style::Tuple,
            Fields::Unit => Style::Unit,
        };
        let members: Vec<Member> = fields.members().collect();
        let field = |(field, member): (syn::Field, Member)| {
            let ty = field.ty;
            Field {
                member,
                vis: field.vis,
                docs: docs_of(&field.attrs),
                as_record: quote_spanned!(ty.span()=> <#ty as #base::record::Record>),
                view: view_type(&ty, base),
                ty,
            }
        };
        let fields = fields.into_iter().zip(members).map(field).collect();
        Variant { ident, docs: docs_of(docs), style, fields }
    }

    /// The fields as they stand in a definition, of types that `ty` gives.
    pub(crate) fn define(&self, ty: impl Fn(&Field) -> TokenStream) -> TokenStream {
        let fields = self.fields.iter().map(|f| {
            let (docs, vis, ty) = (&f.docs, &f.vis, ty(f));
            match &f.member {
                Member::Named(name) => quote!(#(#docs)* #vis #name: #ty),
                Member::Unnamed(_) => quote!(#(#docs)* #vis #ty),
            }
        });
        match self.style {
            Style::Named => quote!({ #(#fields,)* }),
            Style::Tuple => quote!(( #(#fields,)* )),
            Style::Unit => quote!(),
        }
    }

    /// `{ member: value, .. }`, a pattern or an expression.
    pub(crate) fn braces(&self, value: impl Fn(usize, &Field) -> TokenStream) -> TokenStream {
        let values = self.fields.iter().enumerate().map(|(i, f)| {
            let (member, value) = (&f.member, value(i, f));
            quote!(#member: #value)
        });
        quote!({ #(#values,)* })
    }

    /// The pattern that binds field *i* to `binding(prefix, i)`.
    pub(crate) fn bind(&self, prefix: &str) -> TokenStream {
        self.braces(|i, _| {
            let name = binding(prefix, i);
            quote!(#name)
        })
    }
}

/// The name of a local variable for field `i`.
pub(crate) fn binding(prefix: &str, i: usize) -> Ident {
    format_ident!("__{prefix}{i}")
}

fn docs_of(attributes: &[Attribute]) -> Vec<Attribute> {
    attributes.iter().filter(|a| a.path().is_ident("doc")).cloned().collect()
}

/// The path to `tidemill_base`: what `#[record(crate = ..)]` says, or that of the crate `tidemill`.
fn base_path(attributes: &[Attribute]) -> Result<TokenStream> {
    let mut base = None;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("record")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("crate") {
                return Err(
                    meta.error("unknown option, expected `crate = path::to::tidemill_base`")
                );
            }
            let path: Path = meta.value()?.call(Path::parse_mod_style)?;
            base = Some(quote!(#path));
            Ok(())
        })?;
    }
    Ok(base.unwrap_or_else(|| quote!(::tidemill::__private::base)))
}

/// Refuses lifetimes, bounds every type parameter by `Record`.
fn check_generics(mut generics: Generics, base: &TokenStream) -> Result<Generics> {
    if let Some(lifetime) = generics.lifetimes().next() {
        let what = "a record owns what it holds: replace the reference by an owned type";
        return Err(Error::new(lifetime.lifetime.span(), what));
    }
    let params: Vec<Ident> = generics.type_params().map(|p| p.ident.clone()).collect();
    if !params.is_empty() {
        let clause = generics.make_where_clause();
        for param in params {
            clause.predicates.push(parse_quote!(#param: #base::record::Record));
        }
    }
    Ok(generics)
}
