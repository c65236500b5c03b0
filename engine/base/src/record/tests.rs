//! Laws of `Record` on the built-in types.

#![expect(unsafe_code, reason = "archives are read where they were written")]

use crate::batch::{Batch, BatchBuilder};
use crate::buffer::Buffer;
use crate::record::{Record, shape_of};

fn round_trip<T: Record + PartialEq + std::fmt::Debug>(values: &[T]) {
    let mut builder = BatchBuilder::new(Buffer::pooled());
    for (i, v) in values.iter().enumerate() {
        builder.push::<T>(v.view(), i as i64, 7).unwrap();
    }
    let batch = builder.seal();
    batch.check::<T>().unwrap();
    let mut bytes = vec![];
    batch.encode(&mut bytes);
    let (decoded, used) = Batch::decode(&bytes).unwrap();
    assert_eq!(used, bytes.len());
    decoded.check::<T>().unwrap();
    let mut copied = BatchBuilder::new(Buffer::pooled());
    for i in (0..values.len()).rev() {
        copied.push_raw(decoded.raw(i)).unwrap();
    }
    let copied = copied.seal();
    copied.check::<T>().unwrap();
    for (i, v) in values.iter().enumerate() {
        assert_eq!(&T::from_view(batch.get::<T>(i).0), v);
        assert_eq!(&T::from_view(copied.get::<T>(values.len() - 1 - i).0), v);
        assert_eq!(batch.timestamp(i), i as i64);
    }
}

#[test]
fn built_in_types_survive_archive_encode_copy() {
    round_trip(&[1u64, 2, u64::MAX]);
    round_trip(&[(1u8, -5i64, 2.5f64), (2, 7, f64::MIN)]);
    let long = "a string that is longer than eight bytes".to_string();
    round_trip(&[
        String::new(),
        "short".into(),
        long.clone(),
        "12345678".into(),
        "123456789".into(),
    ]);
    round_trip(&[(3u8, long.clone(), 9u128), (4, "x".into(), 1)]);
    round_trip(&[Some(long.clone()), None, Some("b".into())]);
    round_trip(&[vec![1u32, 2, 3], vec![], vec![9; 100]]);
    round_trip(&[vec![(1u8, long.clone()), (2, "s".into())], vec![]]);
    round_trip(&[(Some(Some(3u16)), 'x', true, ()), (Some(None), 'ß', false, ())]);
}

/// A text of `n` bytes with letters of one to four bytes.
fn text(n: usize, seed: usize) -> String {
    let letters = ['a', 'ß', '€', '🦀', 'z'];
    let mut text = String::new();
    for i in seed.. {
        let left = n - text.len();
        let letter = letters[i % letters.len()];
        match left {
            0 => break,
            _ if letter.len_utf8() <= left => text.push(letter),
            _ => text.push('.'),
        }
    }
    text
}

#[test]
fn strings_of_any_length_and_place_are_what_rkyv_reads_and_equal_bytes() {
    use rkyv::string::ArchivedString;
    use rkyv::tuple::ArchivedTuple1;
    for n in 0..=70 {
        for before in 0..20 {
            let text = text(n, before);
            let mut buffer = Buffer::with_bytes(1024);
            let bytes = buffer.bytes_mut();
            bytes.fill(0xaa);
            let mut whole = crate::record::Encoder::new(bytes, before);
            whole.encode::<String>(&text).unwrap();
            let end = whole.position();
            let archive = bytes[before..end].to_vec();
            // SAFETY: an archive was just written there, and is aligned.
            let archived = unsafe { &*bytes.as_ptr().add(end - 8).cast::<ArchivedString>() };
            assert_eq!(archived.as_str(), text);
            assert_eq!(String::view_archived(archived), text);

            bytes.fill(0x55);
            let mut halves = crate::record::Encoder::new(bytes, before);
            halves.encode::<(String,)>((&text,)).unwrap();
            assert_eq!(halves.position(), end);
            // SAFETY: as above.
            let archived =
                unsafe { &*bytes.as_ptr().add(end - 8).cast::<ArchivedTuple1<ArchivedString>>() };
            assert_eq!((archived.0.as_str(), String::view_archived(&archived.0)), (&*text, &*text));
            assert_eq!(bytes[before..end], archive, "{n} bytes at {before}");
        }
    }
}

#[test]
fn strings_fit_into_windows_that_are_just_large_enough() {
    for n in 0..=40 {
        for before in 0..8 {
            let text = text(n, 0);
            let mut large = Buffer::with_bytes(256);
            let mut encoder = crate::record::Encoder::new(large.bytes_mut(), before);
            encoder.encode::<String>(&text).unwrap();
            let end = encoder.position();
            for window in 0..end + 40 {
                let mut small = Buffer::with_bytes(256);
                let bytes = &mut small.bytes_mut()[..window.max(before)];
                let mut encoder = crate::record::Encoder::new(bytes, before);
                let fits = encoder.encode::<String>(&text).is_ok();
                assert_eq!(fits, window >= end, "{n} bytes at {before} of {window}");
                if fits {
                    assert_eq!(encoder.position(), end);
                    assert_eq!(bytes[before..end], large.bytes()[before..end]);
                }
                assert!(small.bytes()[window.max(before)..].iter().all(|&b| b == 0));
            }
        }
    }
}

#[test]
fn shapes_name_the_layout() {
    assert_eq!(
        shape_of::<(u64, Option<String>, Vec<(i8, f32)>)>(),
        "(u64,option<str>,list<(i8,f32)>)"
    );
}

#[test]
fn a_full_buffer_refuses_and_stays_whole() {
    let mut builder = BatchBuilder::new(Buffer::with_bytes(128));
    let mut pushed = 0;
    while builder.push::<String>("twelve bytes", 1, 0).is_ok() {
        pushed += 1;
    }
    assert_eq!(pushed, 2);
    let batch = builder.seal();
    batch.check::<String>().unwrap();
    assert!(batch.iter::<String>().all(|(v, _, _)| v == "twelve bytes"));
}

/// What was in the buffer before does not show in an archive: every byte is written or zeroed.
#[test]
fn archives_do_not_depend_on_what_the_buffer_held() {
    fn bytes_of<T: Record>(value: &T, dirt: u8) -> Vec<u8> {
        let mut buffer = Buffer::with_bytes(1024);
        buffer.bytes_mut().fill(dirt);
        let mut builder = BatchBuilder::new(buffer);
        for _ in 0..2 {
            builder.push::<T>(value.view(), 1, 2).unwrap();
        }
        let batch = builder.seal();
        [batch.data(), batch.metas()].concat()
    }
    fn same<T: Record>(value: T) {
        assert_eq!(bytes_of(&value, 0), bytes_of(&value, 0xa5), "{}", shape_of::<T>());
        let written = T::WRITTEN;
        assert!(written <= size_of::<T::Archived>(), "{} of {written}", shape_of::<T>());
    }
    same((1u64, 2i64, f64::MAX));
    same((1u8, 2u64));
    same((1u64, 2u8));
    same((true, 'x', 3u16, 4u128));
    same([(1u8, 2u16); 3]);
    same([7u64; 3]);
    same((Some(3u32), None::<u64>, ()));
    for n in 0..40 {
        same(("x".repeat(n), 7u8));
        same(Some(("x".repeat(n), 7u64)));
        same(vec![("x".repeat(n), 7u8); 2]);
    }
}

#[test]
#[should_panic(expected = "in one batch")]
fn plain_records_and_others_do_not_share_a_batch() {
    let mut builder = BatchBuilder::new(Buffer::pooled());
    builder.push::<u64>(1, 0, 0).unwrap();
    let _ = builder.push::<String>("x", 0, 0);
}

#[test]
fn an_even_batch_is_not_checked_as_another() {
    let mut builder = BatchBuilder::new(Buffer::pooled());
    builder.push::<u64>(1, 0, 0).unwrap();
    let batch = builder.seal();
    batch.check::<u64>().unwrap();
    assert!(batch.check::<u32>().is_err() && batch.check::<String>().is_err());
    let mut bytes = vec![];
    batch.encode(&mut bytes);
    // A stride that the data does not have.
    bytes[8] = 4;
    assert!(Batch::decode(&bytes).is_err());
}

#[test]
fn what_a_value_owns_is_counted() {
    assert_eq!(7u64.owned_bytes() + ().owned_bytes() + [1u8; 9].owned_bytes(), 0);
    let text = String::with_capacity(40);
    assert_eq!(text.owned_bytes(), 40);
    assert_eq!((1u8, Some(text.clone()), None::<String>, text).owned_bytes(), 40);
    let mut numbers: Vec<u32> = Vec::with_capacity(10);
    numbers.push(1);
    assert_eq!(numbers.owned_bytes(), 40);
    // Of long lists some elements stand for all; of equal ones that is exact.
    for n in [0, 1, 8, 9, 1000] {
        let list = vec!["0123456789".to_owned(); n];
        assert_eq!(list.owned_bytes(), n * (size_of::<String>() + 10));
    }
    let nested = vec![vec![0u16; 50]; 100];
    assert_eq!(nested.owned_bytes(), 100 * (size_of::<Vec<u16>>() + 100));
    assert_eq!([const { String::new() }; 3].owned_bytes(), 0);
}
