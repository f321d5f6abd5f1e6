//! What the fuzz targets do; `targets.rs` is shared with the test that replays the corpus.

#[path = "targets.rs"]
pub mod targets;
