//! Targets for a fuzzer: each decodes bytes into operations of one crate, runs them, and compares with an obvious model or
//! asks the crate to check itself.
//!
//! An input is read from its front as long as there is some ([`Tape`]); every input is a valid one, so that a mutation is
//! never lost to a parser. The same functions run on stable compilers over the corpus: `cargo test` here.

mod lent;
mod tape;

pub mod buddy;
pub mod fault;
pub mod folio;
pub mod highmem;
pub mod kcoll;
pub mod memblock;
pub mod numa;
pub mod procfs;
pub mod slub;
pub mod tables;
pub mod vma;
pub mod vmalloc;
pub mod zone;

pub use tape::Tape;

/// A function that takes an input.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("memblock", memblock::run),
    ("folio", folio::run),
    ("numa", numa::run),
    ("kcoll", kcoll::run),
    ("buddy", buddy::run),
    ("zone", zone::run),
    ("tables", tables::run),
    ("slub", slub::run),
    ("vmalloc", vmalloc::run),
    ("vma", vma::run),
    ("fault", fault::run),
    ("procfs", procfs::run),
    ("highmem", highmem::run),
];
