//! Replays what fuzzing found worth keeping, and some thousand random inputs, through the same targets.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/targets.rs"]
mod targets;

#[test]
fn the_corpus_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let mut replayed = 0;
        for file in fs::read_dir(corpus.join(name)).expect("each target has a corpus") {
            target(&fs::read(file.expect("a file").path()).expect("readable"));
            replayed += 1;
        }
        assert!(replayed > 0, "{name} has an empty corpus");
    }
}

#[test]
fn random_bytes_break_nothing() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for number in 0..2_000 {
        let len = next() % 64;
        let data: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[0]).collect();
        for (name, target) in targets::ALL {
            // A history takes some hundred times as long as a text.
            if number % 20 == 0 || !["state_machine", "schedule"].contains(&name) {
                target(&data);
            }
        }
    }
}
