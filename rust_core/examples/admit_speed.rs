//! Measures admit alone: groups of 500 plain messages of 80 characters, from request bytes to what the store needs.
//!
//! It proves nothing. Run it with `cargo run --release --example admit_speed [rounds]`.

mod admitting;
mod timing;

use _core::admit::{Door, Limits, admit};
use _core::consent::Consent;
use _core::ids::{EPOCH_US, IdMint};

use admitting::{GROUP_MESSAGES, calls, registry};

const ROUNDS: u32 = 400;

fn main() {
    let registry = registry();
    let calls = calls();
    let (consent, limits) = (Consent::default(), Limits::default());
    let mut mint = IdMint::new(1, 0).expect("node 1");
    let (mut admitting, mut answering) = (Vec::new(), Vec::new());
    for round in 0..timing::rounds(ROUNDS) {
        let now_us = EPOCH_US + i64::from(round) * 10_000;
        let (time, admission) = timing::timed(|| {
            admit(
                &calls,
                &registry,
                &consent,
                &limits,
                &mut mint,
                now_us,
                Door::open(10_000),
            )
        });
        admitting.push(time);
        let (time, (events, replies)) =
            timing::timed(|| (admission.first_events(), admission.replies()));
        answering.push(time);
        assert_eq!(
            (admission.accepted().len(), events.len(), replies.len()),
            (GROUP_MESSAGES as usize, 1, 1)
        );
    }
    timing::print_ns("admit", GROUP_MESSAGES, admitting);
    timing::print_ns("first events and replies", GROUP_MESSAGES, answering);
}
