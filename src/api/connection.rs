//! Connections of clients: counted, and closed if they say nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// The pause after a failed accept: it fails while file descriptors are used up.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts connections up to a number; further ones are closed at once, so that their clients ask
/// another node.
pub(crate) struct Incoming {
    listener: TcpListener,
    room: Arc<Semaphore>,
    patience: Patience,
    pause: Option<Pin<Box<Sleep>>>,
}

/// How long a connection may say nothing before it is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// This long before the first word.
    FirstWord(Duration),
    /// This long before every word.
    EveryWord(Duration),
}

/// A connection that counts.
pub(crate) struct Connection {
    stream: TcpStream,
    patience: Patience,
    /// While nothing is said: when to give up.
    silence: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, connections_max: usize, patience: Patience) -> Self {
        let room = Arc::new(Semaphore::new(connections_max));
        Self { listener, room, patience, pause: None }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<(Connection, SocketAddr)> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, from)) => {
                    if let Ok(room) = self.room.clone().try_acquire_owned() {
                        let connection = Connection::new(stream, self.patience, room);
                        return Poll::Ready((connection, from));
                    }
                    tracing::debug!(%from, "too many connections: closed");
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.pause = Some(Box::pin(sleep(PAUSE_AFTER_FAILURE)));
                }
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_accept(cx).map(|(connection, _)| Some(Ok(connection)))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    fn new(stream: TcpStream, patience: Patience, room: OwnedSemaphorePermit) -> Self {
        // Without it, small answers wait for the acknowledgement of earlier ones; where it cannot
        // be set, they do.
        let _ = stream.set_nodelay(true);
        let (Patience::FirstWord(within) | Patience::EveryWord(within)) = patience;
        Self { stream, patience, silence: Some(Box::pin(sleep(within))), _room: room }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(silence) = &mut this.silence else { return read };
        match (&read, this.patience) {
            (Poll::Ready(_), Patience::FirstWord(_)) => this.silence = None,
            (Poll::Ready(_), Patience::EveryWord(within)) => {
                silence.as_mut().reset(Instant::now() + within);
            }
            (Poll::Pending, _) => {
                ready!(silence.as_mut().poll(cx));
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair(patience: Patience) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, 1, patience);
        let ours = TcpStream::connect(address).await.unwrap();
        (ours, axum::serve::Listener::accept(&mut incoming).await.0)
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_hung_up_on() {
        let within = Duration::from_millis(30);
        let (_ours, mut theirs) = pair(Patience::FirstWord(within)).await;
        let read = theirs.read(&mut [0; 8]).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn patience_ends_with_the_first_word_or_begins_anew_with_every_word() {
        let within = Duration::from_millis(30);
        let (mut ours, mut theirs) = pair(Patience::FirstWord(within)).await;
        ours.write_all(b"x").await.unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 1);
        let more = tokio::time::timeout(within * 4, theirs.read(&mut [0; 8])).await;
        assert!(more.is_err(), "the connection may be silent now");

        let (mut ours, mut theirs) = pair(Patience::EveryWord(within)).await;
        ours.write_all(b"x").await.unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 1);
        let read = theirs.read(&mut [0; 8]).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
