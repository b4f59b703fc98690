//! Connections of clients: counted, and closed if they say nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// A connection that has sent nothing within this is closed.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(10);
/// The pause after a failed accept: it fails while file descriptors are used up.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts connections up to a number; further ones are closed at once, so that their clients ask
/// another node.
pub(super) struct Incoming {
    listener: TcpListener,
    room: Arc<Semaphore>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// A connection that counts.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until the first word: when to give up.
    silence: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(connections_max)), pause: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                Ok((stream, from)) => match this.room.clone().try_acquire_owned() {
                    Ok(room) => return Poll::Ready(Some(Ok(Connection::new(stream, room)))),
                    Err(_) => tracing::debug!(%from, "too many connections: closed"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    this.pause = Some(Box::pin(sleep(PAUSE_AFTER_FAILURE)));
                }
            }
        }
    }
}

impl Connection {
    fn new(stream: TcpStream, room: OwnedSemaphorePermit) -> Self {
        // Without it, small answers wait for the acknowledgement of earlier ones; where it cannot
        // be set, they do.
        let _ = stream.set_nodelay(true);
        let silence = Some(Box::pin(sleep(FIRST_WORD_WITHIN)));
        Self { stream, silence, _room: room }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(silence) = &mut self.silence {
            if read.is_ready() {
                self.silence = None;
            } else if silence.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
