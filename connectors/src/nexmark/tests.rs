//! The events of the generator, in its order, whole after a restore.

use super::*;
use crate::testing::*;
use tidemill_runtime::source::Polled;

fn reference(total: usize) -> Vec<Event> {
    let config = NexmarkConfig { base_time: 0, ..NexmarkConfig::default() };
    EventGenerator::new(config).take(total).map(Event::from).collect()
}

fn by_time(mut events: Vec<Event>) -> Vec<String> {
    events.sort_by_key(Event::timestamp);
    let mut texts: Vec<String> = events.into_iter().map(|e| format!("{e:?}")).collect();
    texts.sort();
    texts
}

#[test]
fn the_generators_sequence_at_any_parallelism() {
    let want = reference(6000);
    for source in [NexmarkSource::new(Some(6000)), NexmarkSource::new(Some(6000)).replay()] {
        let mut out = Out::new();
        let mut reader = open_all(&source, 1, None).unwrap().remove(0);
        assert_eq!(out.drain(&mut reader).unwrap(), Polled::End);
        assert_eq!(out.values(), want);
        assert!(out.records.iter().all(|(event, timestamp)| event.timestamp() == *timestamp));
        assert_eq!(out.watermarks.len(), 6);
        assert_eq!(out.watermarks[0].1, out.records[999].1);
        let got = read_with_restores(&source, 3, &[(2, 2, 700), (5, 1, 900)]).unwrap();
        assert_eq!(by_time(got), by_time(want.clone()));
    }
}

#[test]
fn each_subtask_has_its_residues() {
    let want = reference(1000);
    for (s, mut reader) in
        open_all(&NexmarkSource::new(Some(1000)), 3, None).unwrap().into_iter().enumerate()
    {
        let mut out = Out::new();
        out.drain(&mut reader).unwrap();
        let own: Vec<Event> = want.iter().skip(s).step_by(3).cloned().collect();
        assert_eq!(out.values(), own);
    }
}

#[test]
fn the_base_time_shifts_all_events() {
    let mut out = Out::new();
    let source = NexmarkSource::new(Some(50)).base_time(1_000_000);
    out.drain(&mut open_all(&source, 1, None).unwrap()[0]).unwrap();
    assert_eq!(out.records[0].1, 1_000_000);
    assert!(matches!(out.records[0].0, Event::Person(_)));
}

#[test]
fn an_endless_replay_is_refused() {
    let error = open_all(&NexmarkSource::new(None).replay(), 1, None).err().unwrap();
    assert!(error.to_string().contains("endlessly many"), "{error}");
}
