//! Laws of `Record` on the built-in types.

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
