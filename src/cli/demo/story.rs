//! What happened when: told as it happens.

use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::cli::term::{self, Output, Progress};

/// The clock of the demo, and the bar that lines must not tear. Cheap to clone.
#[derive(Clone)]
pub struct Story {
    started: Instant,
    /// Where it is told: beside the report, or, if that is for programs, to whoever watches.
    output: Output,
    bar: Arc<Mutex<Option<Arc<Progress>>>>,
}

impl Story {
    /// Time begins.
    #[must_use]
    pub fn begin(output: Output) -> Self {
        Self { started: Instant::now(), output, bar: Arc::default() }
    }

    /// Shows a bar until [`Story::bar_done`].
    #[must_use]
    pub fn bar(&self, title: &str, total: Option<u64>, unit: &'static str) -> Arc<Progress> {
        let bar = Arc::new(Progress::start(title, total, unit));
        if let Ok(mut current) = self.bar.lock() {
            *current = Some(bar.clone());
        }
        bar
    }

    /// Takes the bar away.
    pub fn bar_done(&self) {
        if let Ok(mut current) = self.bar.lock()
            && let Some(bar) = current.take()
        {
            bar.finish();
        }
    }

    /// Tells something, with the time. A closed standard output does not stop the demo: its exit
    /// code still counts.
    pub fn tell(&self, text: impl Display) {
        let at = self.started.elapsed().as_secs_f64();
        let line = format!("t+{at:5.1}s  {text}");
        if self.output == Output::Json {
            return term::note(line);
        }
        let bar = self.bar.lock().ok().and_then(|bar| bar.clone());
        let _ = match bar {
            Some(bar) => bar.line(line),
            None => term::line(line),
        };
    }
}
