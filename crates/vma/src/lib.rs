//! Address spaces: VMAs and mmap, munmap, mprotect, brk as edits
#![no_std]
