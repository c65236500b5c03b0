//! Warnings and errors of the engine on standard error, unless the program has set a subscriber of
//! its own: what a job must tell its user does not depend on a logging library.

use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Installs the lines below; does nothing where the program has been faster.
pub(super) fn install() {
    let _ = tracing::subscriber::set_global_default(Lines);
}

/// One line an event: `warning: what happened (field=value)`.
struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("tidemill")
    }
    fn event(&self, event: &Event<'_>) {
        let level = if *event.metadata().level() == Level::ERROR { "error" } else { "warning" };
        let mut text = Text::default();
        event.record(&mut text);
        super::console::tell(format_args!("{level}: {}", text.line()));
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn line(&self) -> String {
        match self.fields.as_str() {
            "" => self.message.clone(),
            fields => format!("{} ({fields})", self.message),
        }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => {
                let gap = if self.fields.is_empty() { "" } else { ", " };
                write!(self.fields, "{gap}{name}={value:?}")
            }
        };
    }
}
