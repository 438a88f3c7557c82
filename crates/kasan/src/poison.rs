//! What a shadow byte says. Linux: mm/kasan/kasan.h.

/// Why eight bytes may not be touched: the values of shadow bytes above 7.
///
/// | shadow byte | says |
/// |---|---|
/// | 0 | all eight bytes may be touched |
/// | 1 to 7 | so many of the first ones may |
/// | others | none, for one of these reasons |
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Poison(pub(crate) u8);

impl Poison {
    /// Nothing is mapped there. Linux: `KASAN_VMALLOC_INVALID`.
    pub const VMALLOC_INVALID: Self = Self(0xf8);
    /// An object that was freed, by somebody known. Linux: `KASAN_SLAB_FREE_META`.
    pub const SLAB_FREE_TRACK: Self = Self(0xfa);
    /// An object that was freed. Linux: `KASAN_SLAB_FREE`.
    pub const SLAB_FREE: Self = Self(0xfb);
    /// Around objects. Linux: `KASAN_SLAB_REDZONE`.
    pub const SLAB_REDZONE: Self = Self(0xfc);
    /// Behind large objects, which are pages of their own. Linux: `KASAN_PAGE_REDZONE`.
    pub const PAGE_REDZONE: Self = Self(0xfe);
    /// Pages that were freed. Linux: `KASAN_PAGE_FREE`.
    pub const PAGE_FREE: Self = Self(0xff);

    /// The shadow byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self.0
    }
}
