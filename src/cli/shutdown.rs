//! When to stop: signals, and the end of a parent.

use anyhow::Context as _;

/// The signals that ask this process to stop.
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system refuses.
    #[cfg(unix)]
    pub fn install() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let context = "cannot listen for signals";
        let interrupt = signal(SignalKind::interrupt()).context(context)?;
        let terminate = signal(SignalKind::terminate()).context(context)?;
        Ok(Self { interrupt, terminate })
    }

    /// From now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// Never; elsewhere than here it can.
    #[cfg(not(unix))]
    pub fn install() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    /// The next signal's name.
    #[cfg(unix)]
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }

    /// The next signal's name.
    #[cfg(not(unix))]
    pub async fn next(&mut self) -> &'static str {
        let _ = tokio::signal::ctrl_c().await;
        "interrupted"
    }
}

/// Ends when standard input does, which for a child on a pipe means that its parent has ended or
/// asks it to stop. What comes over the pipe is ignored.
pub async fn parent_gone() {
    // A plain thread: tokio's own for standard input would hold up the end of the runtime.
    let (gone, told) = tokio::sync::oneshot::channel();
    let watch = move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = gone.send(());
    };
    match std::thread::Builder::new().name("parent".to_owned()).spawn(watch) {
        // The sender is dropped only after it has sent.
        Ok(_) => drop(told.await),
        Err(_) => std::future::pending().await,
    }
}
