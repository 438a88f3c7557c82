//! Texts of a real Linux, to be taken apart and written again.
#![allow(
    dead_code,
    unused_macros,
    missing_docs,
    unreachable_pub,
    reason = "each test file uses its part of this"
)]

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("linux-6.1/", $name, ".txt"))
    };
}

/// The same file of every machine.
macro_rules! golden_of_each {
    ($name:literal) => {
        [
            include_str!(concat!("linux-6.1/", $name, ".txt")),
            include_str!(concat!("linux-6.1-numa/", $name, ".txt")),
            include_str!(concat!("linux-6.1-memoryless/", $name, ".txt")),
        ]
    };
}

/// Compares line by line first, so that a failure names its line.
pub fn same(ours: &str, linux: &str) {
    for (nr, (a, b)) in ours.lines().zip(linux.lines()).enumerate() {
        assert_eq!(a, b, "line {}", nr + 1);
    }
    assert_eq!(ours, linux);
}

/// Every number in the line.
pub fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}
