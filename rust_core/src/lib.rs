//! The pure core: no sockets, no files, no clock, no threads, no logging. Time and randomness are arguments.

pub mod admit;
pub mod budget;
pub mod consent;
pub mod edge;
pub mod events;
pub mod ids;
pub mod ledger;
pub mod message;
pub mod outcome;
pub mod owned;
pub mod phone;
#[cfg(feature = "python")]
mod python;
pub mod quota;
pub mod registry;
pub mod render;
pub mod schedule;
pub mod settle;
pub mod shards;
pub mod spill;
pub mod state;
pub mod telnyx;
pub mod text;
pub mod verdict;
pub mod view;
pub mod webhook_http;
pub mod wire;
