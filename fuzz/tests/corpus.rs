//! Every target over its corpus, and over inputs from a generator: what any compiler can do.
#![allow(missing_docs, reason = "a test")]

use std::path::Path;

use kmm_fuzz::TARGETS;

const NR_RANDOM: usize = 300;
const LONGEST: usize = 600;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn every_committed_input_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for &(name, target) in TARGETS {
        let files = std::fs::read_dir(corpus.join(name)).expect("a corpus for each target");
        let mut nr_inputs = 0;
        for file in files {
            let path = file.expect("a file").path();
            println!("{}", path.display());
            target(&std::fs::read(path).expect("readable"));
            nr_inputs += 1;
        }
        assert!(nr_inputs > 0, "{name} has no corpus");
    }
}

#[test]
fn random_inputs_pass() {
    let seed = match std::env::var("KMM_SEED") {
        Ok(text) => text.parse().expect("KMM_SEED is a number"),
        Err(_) => 0xf022,
    };
    println!("seed {seed}; replay: KMM_SEED={seed} cargo test random_inputs_pass");
    for &(name, target) in TARGETS {
        let mut random = Random(seed);
        println!("{name}");
        let start = std::time::Instant::now();
        for _ in 0..NR_RANDOM {
            let len = random.next() as usize % LONGEST;
            let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            target(&bytes);
        }
        println!("  {NR_RANDOM} inputs: {} ms", start.elapsed().as_millis());
    }
}
