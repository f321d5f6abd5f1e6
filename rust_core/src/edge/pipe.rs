//! The in-memory stand-in for a socket that `h2` reads from and writes to.
//!
//! Reading finds what was put in and otherwise waits; writing takes everything while the transport takes it, and otherwise
//! keeps `h2` waiting once a bound is reached, which then reads no more than it can answer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait for the transport: one turn's answers of 128 calls of a few KiB.
const WAITING_BYTES_MAX: usize = 512 * 1024;

#[derive(Default)]
pub(super) struct Both {
    pub inbound: BytesMut,
    pub outbound: BytesMut,
    /// The transport takes nothing for now.
    pub full: bool,
    /// `h2` was kept waiting since this was last set to false, and may not have read all it could.
    pub waited: bool,
}

impl Both {
    fn has_room(&mut self) -> bool {
        let room = !self.full && self.outbound.len() <= WAITING_BYTES_MAX;
        self.waited |= !room;
        room
    }
}

#[derive(Clone, Default)]
pub(super) struct Pipe(Arc<Mutex<Both>>);

impl Pipe {
    pub fn lock(&self) -> MutexGuard<'_, Both> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut both = self.lock();
        if both.inbound.is_empty() {
            return Poll::Pending;
        }
        let piece = both.inbound.len().min(into.remaining());
        into.put_slice(&both.inbound.split_to(piece));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut both = self.lock();
        if !both.has_room() {
            return Poll::Pending;
        }
        both.outbound.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut both = self.lock();
        if !both.has_room() {
            return Poll::Pending;
        }
        for part in parts {
            both.outbound.extend_from_slice(part);
        }
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
