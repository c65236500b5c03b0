//! Keys: records that partition a stream, with their stable hash and their stored form.

use crate::hash::{combine, hash_bytes, hash_u64};
use crate::record::Record;
use crate::short::pair;

/// A record that can be a key. `#[derive(Key)]` implements it for structs of keys.
///
/// Laws: equal views have equal hashes; `load(store(v)) == v`; `matches(store(v), w) == (v == w)`;
/// `Slot::default()` is the stored form of some key, one without bytes in the heap.
/// The hash is part of the checkpoint format (see [`crate::hash`]).
pub trait Key: Record {
    /// The fixed-size form in which tables store the key. Variable parts live in the heap.
    type Slot: Copy + Default + 'static;

    /// The stable hash.
    fn hash(view: Self::View<'_>) -> u64;
    /// Stores the key; bytes that do not fit the slot go to `heap`.
    fn store(view: Self::View<'_>, heap: &mut KeyHeap) -> Self::Slot;
    /// Whether the stored key equals `view`.
    fn matches(slot: &Self::Slot, view: Self::View<'_>, heap: &KeyHeap) -> bool;
    /// Views a stored key.
    fn load<'a>(slot: &'a Self::Slot, heap: &'a KeyHeap) -> Self::View<'a>;
    /// Gives a stored key's bytes back to `heap`.
    fn free(slot: &Self::Slot, heap: &mut KeyHeap);
}

/// Bytes of stored keys: blocks in size classes of 16 bytes with free lists, so that tables with
/// churn do not grow.
#[derive(Debug, Default)]
pub struct KeyHeap {
    bytes: Vec<u8>,
    /// Heads of the free lists by class; block numbers + 1, 0 = empty. A free block's first four
    /// bytes hold the next head.
    free: Vec<u32>,
}

const CLASS: usize = 16;

impl KeyHeap {
    fn allocate(&mut self, bytes: &[u8]) -> u32 {
        let class = bytes.len().div_ceil(CLASS);
        let at = match self.free.get(class).copied().unwrap_or(0) {
            0 => {
                let at = self.bytes.len();
                self.bytes.resize(at + class * CLASS, 0);
                at
            }
            head => {
                let at = (head as usize - 1) * CLASS;
                let mut next = [0; 4];
                next.copy_from_slice(&self.bytes[at..at + 4]);
                self.free[class] = u32::from_le_bytes(next);
                at
            }
        };
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        // `u32::MAX` itself would not survive the `+ 1` of a free list.
        let block = u32::try_from(at / CLASS).ok().filter(|&b| b < u32::MAX);
        block.unwrap_or_else(|| panic!("keys of one table exceed 64 GiB"))
    }

    fn get(&self, block: u32, len: usize) -> &[u8] {
        let at = block as usize * CLASS;
        &self.bytes[at..at + len]
    }

    fn release(&mut self, block: u32, len: usize) {
        let (class, at) = (len.div_ceil(CLASS), block as usize * CLASS);
        if class == 0 {
            return;
        }
        if self.free.len() <= class {
            self.free.resize(class + 1, 0);
        }
        self.bytes[at..at + 4].copy_from_slice(&self.free[class].to_le_bytes());
        self.free[class] = block + 1;
    }

    /// Forgets all keys, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.free.clear();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

macro_rules! integer_key {
    ($($t:ty),*) => {$(
        impl Key for $t {
            type Slot = $t;
            #[inline(always)]
            fn hash(view: $t) -> u64 {
                hash_u64(view as u64)
            }
            #[inline(always)]
            fn store(view: $t, _: &mut KeyHeap) -> $t {
                view
            }
            #[inline(always)]
            fn matches(slot: &$t, view: $t, _: &KeyHeap) -> bool {
                *slot == view
            }
            #[inline(always)]
            fn load<'a>(slot: &'a $t, _: &'a KeyHeap) -> $t {
                *slot
            }
            #[inline(always)]
            fn free(_: &$t, _: &mut KeyHeap) {}
        }
    )*};
}
integer_key!(u8, u16, u32, u64, i8, i16, i32, i64, bool, char);

impl Key for () {
    type Slot = ();
    #[inline(always)]
    fn hash((): ()) -> u64 {
        hash_u64(0)
    }
    fn store((): (), _: &mut KeyHeap) {}
    #[inline(always)]
    fn matches((): &(), (): (), _: &KeyHeap) -> bool {
        true
    }
    fn load<'a>((): &'a (), _: &'a KeyHeap) {}
    fn free((): &(), _: &mut KeyHeap) {}
}

/// A stored string: up to 12 bytes in place, longer ones in the heap.
///
/// ```text
/// len u32 | 12 bytes of text             (len <= 12, zero padded)
/// len u32 | 8 first bytes | block u32    (len > 12)
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub struct StrSlot {
    len: u32,
    text: [u8; 12],
}

const INLINE: usize = 12;

impl StrSlot {
    #[inline(always)]
    fn block(&self) -> u32 {
        u32::from_le_bytes([self.text[8], self.text[9], self.text[10], self.text[11]])
    }
    #[inline(always)]
    fn bytes<'a>(&'a self, heap: &'a KeyHeap) -> &'a [u8] {
        let len = self.len as usize;
        if len <= INLINE { &self.text[..len] } else { heap.get(self.block(), len) }
    }
}

impl Key for String {
    type Slot = StrSlot;
    #[inline(always)]
    fn hash(view: &str) -> u64 {
        hash_bytes(view.as_bytes())
    }
    fn store(view: &str, heap: &mut KeyHeap) -> StrSlot {
        let bytes = view.as_bytes();
        let mut text = [0; 12];
        if bytes.len() <= INLINE {
            text[..bytes.len()].copy_from_slice(bytes);
        } else {
            text[..8].copy_from_slice(&bytes[..8]);
            text[8..].copy_from_slice(&heap.allocate(bytes).to_le_bytes());
        }
        StrSlot { len: bytes.len() as u32, text }
    }
    #[inline(always)]
    fn matches(slot: &StrSlot, view: &str, heap: &KeyHeap) -> bool {
        let n = view.len();
        if n > INLINE {
            return slot.len as usize == n && slot.bytes(heap) == view.as_bytes();
        }
        // Without a branch on the length: both are zero padded.
        let (lo, hi) = pair(view.as_bytes());
        let [a, b, c, d, rest @ ..] = slot.text;
        let head = u64::from(u32::from_le_bytes([a, b, c, d]) ^ lo as u32);
        let tail = u64::from_le_bytes(rest) ^ (lo >> 32 | hi << 32);
        u64::from(slot.len ^ n as u32) | head | tail == 0
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "the stored bytes came from a str")]
    fn load<'a>(slot: &'a StrSlot, heap: &'a KeyHeap) -> &'a str {
        // SAFETY: `store` is the only maker of slots and copies a whole `str`.
        unsafe { std::str::from_utf8_unchecked(slot.bytes(heap)) }
    }
    fn free(slot: &StrSlot, heap: &mut KeyHeap) {
        if slot.len as usize > INLINE {
            heap.release(slot.block(), slot.len as usize);
        }
    }
}

macro_rules! tuple_key {
    ($($t:ident $i:tt),*; $h:ident => $combine:expr) => {
        impl<$($t: Key),*> Key for ($($t,)*) {
            type Slot = ($($t::Slot,)*);
            #[inline(always)]
            fn hash(view: Self::View<'_>) -> u64 {
                let $h = ($($t::hash(view.$i),)*);
                $combine
            }
            #[inline(always)]
            fn store(view: Self::View<'_>, heap: &mut KeyHeap) -> Self::Slot {
                ($($t::store(view.$i, heap),)*)
            }
            #[inline(always)]
            fn matches(slot: &Self::Slot, view: Self::View<'_>, heap: &KeyHeap) -> bool {
                $($t::matches(&slot.$i, view.$i, heap))&&*
            }
            #[inline(always)]
            fn load<'a>(slot: &'a Self::Slot, heap: &'a KeyHeap) -> Self::View<'a> {
                ($($t::load(&slot.$i, heap),)*)
            }
            #[inline(always)]
            fn free(slot: &Self::Slot, heap: &mut KeyHeap) {
                $($t::free(&slot.$i, heap);)*
            }
        }
    };
}
tuple_key!(A 0; h => combine(h.0, 1));
tuple_key!(A 0, B 1; h => combine(h.0, h.1));
tuple_key!(A 0, B 1, C 2; h => combine(combine(h.0, h.1), h.2));
tuple_key!(A 0, B 1, C 2, D 3; h => combine(combine(h.0, h.1), combine(h.2, h.3)));

#[cfg(test)]
mod tests {
    use super::*;

    /// The default slot is the stored form of the key that it loads as.
    fn default_is_a_key<K: Key>() {
        let (slot, mut heap) = (K::Slot::default(), KeyHeap::default());
        let key = K::from_view(K::load(&slot, &heap));
        let stored = K::store(key.view(), &mut heap);
        assert!(K::matches(&slot, key.view(), &heap) && K::matches(&stored, key.view(), &heap));
        assert_eq!(heap.bytes(), 0);
    }

    #[test]
    fn default_slots_are_keys() {
        default_is_a_key::<u64>();
        default_is_a_key::<i8>();
        default_is_a_key::<bool>();
        default_is_a_key::<char>();
        default_is_a_key::<()>();
        default_is_a_key::<String>();
        default_is_a_key::<(String, u32)>();
        default_is_a_key::<(u8, i64, bool, char)>();
    }

    #[test]
    fn stored_strings_match_themselves_only() {
        let mut words = vec![String::new()];
        for n in 1..=20 {
            for at in 0..n {
                for letter in ["a", "b", "\0"] {
                    words.push(["x".repeat(at), letter.into(), "x".repeat(n - at - 1)].concat());
                }
            }
        }
        words.sort();
        words.dedup();
        let mut heap = KeyHeap::default();
        let stored: Vec<StrSlot> = words.iter().map(|w| String::store(w, &mut heap)).collect();
        for (word, slot) in words.iter().zip(&stored) {
            assert_eq!(String::load(slot, &heap), word);
            for other in &words {
                assert_eq!(String::matches(slot, other, &heap), word == other, "{word} {other}");
            }
        }
    }
}
