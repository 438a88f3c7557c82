//! Files: the initramfs, pipes, the terminal, `/proc`.

use crate::boot::BootInfo;
use crate::selftest::Test;

/// Self-tests of files.
pub const TESTS: &[Test] = &[];

/// Unpacks the initramfs.
pub fn init(_boot: &'static BootInfo) {}
