//! A connection's bytes, with limits on how long a write may stall and how slowly it may go on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Who is behind must take so many bytes a second: one byte now and then would keep a slot for ever.
const MIN_BYTES_PER_S: f64 = 1024.0;

/// A stream whose writes fail when the other side takes nothing for a while, or too little: whoever asks for an
/// answer and does not read it must not keep its slot.
#[derive(Debug)]
pub struct Timed<S> {
    inner: S,
    timeout: Duration,
    /// When patience ends, while there are bytes that the other side has not taken.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub fn new(inner: S, timeout: Duration) -> Self {
        Timed {
            inner,
            timeout,
            stalled: None,
        }
    }

    /// What is written buys time, but never more than the timeout from now.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let (Some(stalled), Poll::Ready(Ok(n))) = (&mut self.stalled, &written) {
            let bought = Duration::from_secs_f64(*n as f64 / MIN_BYTES_PER_S);
            let most = Instant::now() + self.timeout;
            let deadline = most.min(stalled.deadline() + bought);
            stalled.as_mut().reset(deadline);
        }
        self.check(context, written)
    }

    /// Nothing is left to be taken.
    fn flushed(
        &mut self,
        context: &mut Context<'_>,
        flushed: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if flushed.is_ready() {
            self.stalled = None;
        }
        self.check(context, flushed)
    }

    fn check<T>(
        &mut self,
        context: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            return done;
        }
        let timeout = self.timeout;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.flushed(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.flushed(context, shut)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, buffers);
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// Writes some KiB to a reader who takes `at_once` bytes every 50 ms, and tells how that went.
    fn write(n_kib: usize, at_once: usize) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (near, mut far) = duplex(1024);
            let reader = tokio::spawn(async move {
                let mut taken = vec![0; at_once];
                while far.read_exact(&mut taken).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let mut timed = Timed::new(near, TIMEOUT);
            let written = async {
                timed.write_all(&vec![0; n_kib << 10]).await?;
                timed.flush().await
            };
            let written = tokio::time::timeout(10 * TIMEOUT, written).await;
            reader.abort();
            written.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }

    #[test]
    fn a_reader_who_takes_a_byte_now_and_then_is_dropped() {
        let error = write(2, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_slow_reader_who_goes_on_is_waited_for() {
        write(12, 1024).unwrap();
    }
}
