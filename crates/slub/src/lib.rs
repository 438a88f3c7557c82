//! kmem_cache, kmalloc and a global allocator over any page source
#![no_std]
