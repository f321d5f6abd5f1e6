//! gRPC over HTTP/2 without a socket: bytes of one connection in, calls out; answers in, bytes out.
//!
//! It opens, reads and writes nothing, knows no method's meaning, and decides about no key. HTTP/2 itself is the `h2` crate,
//! over memory and polled by hand.
//!
//! Invariants: whatever a peer sends, what is held for it is bounded by [`Rules`]; a call that was handed out is answered or
//! told as gone, once; nothing waits for a waker: whatever may go on is tried in every turn.

mod authority;
mod call;
mod connection;
mod frames;
mod message;
mod pipe;

pub use connection::{Connection, Event, Rules};
pub use message::Value;
