//! Tuples of one to eight records.

use super::{Encoder, Record};
use rkyv::Place;
use rkyv::munge::munge;
use rkyv::rancor::Failure;
use rkyv::tuple::{
    ArchivedTuple1, ArchivedTuple2, ArchivedTuple3, ArchivedTuple4, ArchivedTuple5, ArchivedTuple6,
    ArchivedTuple7, ArchivedTuple8,
};

macro_rules! tuple {
    ($archived:ident; $($t:ident $i:tt $r:ident $o:ident),*) => {
        impl<$($t: Record),*> Record for ($($t,)*) {
            const PLAIN: bool = $($t::PLAIN)&&*;
            const WRITTEN: usize = 0 $(+ $t::WRITTEN)*;
            type View<'a> = ($($t::View<'a>,)*);
            #[inline(always)]
            fn view(&self) -> Self::View<'_> {
                ($(self.$i.view(),)*)
            }
            #[inline(always)]
            fn view_archived(archived: &Self::Archived) -> Self::View<'_> {
                ($($t::view_archived(&archived.$i),)*)
            }
            #[inline(always)]
            fn from_view(view: Self::View<'_>) -> Self {
                ($($t::from_view(view.$i),)*)
            }
            #[inline(always)]
            fn shorten<'short, 'long: 'short>(view: Self::View<'long>) -> Self::View<'short> {
                ($($t::shorten(view.$i),)*)
            }
            #[inline(always)]
            fn serialize_view(
                view: Self::View<'_>,
                out: &mut Encoder<'_>,
            ) -> Result<Self::Resolver, Failure> {
                Ok(($($t::serialize_view(view.$i, out)?,)*))
            }
            #[inline(always)]
            fn resolve_view(
                view: Self::View<'_>,
                ($($r,)*): Self::Resolver,
                out: Place<Self::Archived>,
            ) {
                munge!(let $archived($($o),*) = out);
                $($t::resolve_view(view.$i, $r, $o);)*
            }
            #[inline]
            fn owned_bytes(&self) -> usize {
                0usize $(.saturating_add(self.$i.owned_bytes()))*
            }
            fn shape(out: &mut String) {
                out.push('(');
                $(
                    if $i > 0 {
                        out.push(',');
                    }
                    $t::shape(out);
                )*
                out.push(')');
            }
        }
    };
}

tuple!(ArchivedTuple1; A 0 ra oa);
tuple!(ArchivedTuple2; A 0 ra oa, B 1 rb ob);
tuple!(ArchivedTuple3; A 0 ra oa, B 1 rb ob, C 2 rc oc);
tuple!(ArchivedTuple4; A 0 ra oa, B 1 rb ob, C 2 rc oc, D 3 rd od);
tuple!(ArchivedTuple5; A 0 ra oa, B 1 rb ob, C 2 rc oc, D 3 rd od, E 4 re oe);
tuple!(ArchivedTuple6; A 0 ra oa, B 1 rb ob, C 2 rc oc, D 3 rd od, E 4 re oe, F 5 rf of);
tuple!(ArchivedTuple7; A 0 ra oa, B 1 rb ob, C 2 rc oc, D 3 rd od, E 4 re oe, F 5 rf of,
    G 6 rg og);
tuple!(ArchivedTuple8; A 0 ra oa, B 1 rb ob, C 2 rc oc, D 3 rd od, E 4 re oe, F 5 rf of,
    G 6 rg og, H 7 rh oh);
