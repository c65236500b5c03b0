//! Warns of a card that pays less than 1.00 and then, within a minute, more than 500.00: a process
//! function with state for each card, and an event-time timer that forgets it.
//!
//!     cargo run -p tidemill-examples --example fraud_detection [-- --input payments.jsonl]

use tidemill::prelude::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/payments.jsonl");
const MINUTE: i64 = 60_000;
type Alerts<'a> = ProcessContext<'a, u64, String>;

#[derive(Record, serde::Deserialize)]
struct Payment {
    card: u64,
    /// Milliseconds.
    time: i64,
    cents: u64,
}

#[derive(Clone)]
struct Detector;

impl KeyedProcess<u64, Payment> for Detector {
    type Out = String;
    /// When the minute since the last small payment is over.
    type State = ValueState<i64>;

    fn open(&self, states: &mut States<u64>) -> Result<Self::State> {
        states.value("suspect until", None)
    }

    fn process(&mut self, until: &mut Self::State, pay: PaymentView, cx: &mut Alerts<'_>) {
        if let Some(end) = until.take() {
            cx.delete_event_timer(end);
            if pay.time <= end && pay.cents > 50_000 {
                cx.emit(&format!("card {}: {} cents at {} ms", pay.card, pay.cents, pay.time));
            }
        }
        if pay.cents < 100 {
            until.set(pay.time + MINUTE);
            cx.register_event_timer(pay.time + MINUTE);
        }
    }

    fn on_timer(&mut self, until: &mut Self::State, _: Timer, _: &mut Alerts<'_>) {
        until.clear();
    }
}

fn main() -> std::process::ExitCode {
    job::main(|args| {
        let input = args.optional("input", "payments, as JSON lines", SAMPLE);
        let env = Env::new("FraudDetection").parallelism(2);
        let time = event_time(|pay: PaymentView| pay.time);
        let payments = env.add_source_with(FileSource::json::<Payment>(input), time);
        let alerts = payments.key_by::<u64, _>(|pay| pay.card).process(Detector);
        alerts.add_sink(StdoutSink::display());
        Ok(env)
    })
}
