//! The page-fault decision and its actions
#![no_std]
