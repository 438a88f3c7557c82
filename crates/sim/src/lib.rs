//! A whole machine to test on
