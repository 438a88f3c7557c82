//! Where objects lie in the slabs of a cache, and how large the slabs are.

use bitflags::bitflags;
use kmm_frame::{Order, PAGE_SIZE};

use crate::SlubError;
use crate::debug::{DebugFlags, Layout};

bitflags! {
    /// How a cache lays out its objects and where it takes pages from. Linux: `slab_flags_t`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct CacheFlags: u32 {
        /// Objects start on cache lines, or divide one evenly. Linux: `SLAB_HWCACHE_ALIGN`.
        const HWCACHE_ALIGN = 1 << 0;
        /// Pages come from `ZONE_DMA`. Linux: `SLAB_CACHE_DMA`.
        const CACHE_DMA = 1 << 1;
        /// Objects can be dropped by a shrinker. Linux: `SLAB_RECLAIM_ACCOUNT`.
        const RECLAIM_ACCOUNT = 1 << 2;
        /// Shares its slabs with no other cache. Linux: `SLAB_NO_MERGE`.
        const NO_MERGE = 1 << 3;
        /// No CPU keeps a stock of objects: each operation takes the lock, and finds mistakes at once. Caches that are
        /// debugged have it. Linux: what `SLAB_CONSISTENCY_CHECKS` makes of a cache.
        const CHECKED = 1 << 4;
    }
}

/// What a cache is to be like: the arguments of [`crate::Kmem::cache_create`]. Linux: `struct kmem_cache_args`.
///
/// # Examples
/// ```
/// use kmm_slub::{CacheArgs, CacheFlags};
///
/// let inodes = CacheArgs::new("inode_cache", 600).flags(CacheFlags::RECLAIM_ACCOUNT);
/// assert_eq!(inodes.align_bytes, 8);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CacheArgs {
    /// As in `/proc/slabinfo`.
    pub name: &'static str,
    /// Bytes of an object.
    pub size_bytes: usize,
    /// What addresses are multiples of: a power of two, at most a page.
    pub align_bytes: usize,
    /// How it is laid out.
    pub flags: CacheFlags,
    /// Constructs objects, once per slab.
    pub ctor: Option<crate::Ctor>,
}

impl CacheArgs {
    /// Objects of that size at multiples of 8.
    #[must_use]
    pub const fn new(name: &'static str, size_bytes: usize) -> Self {
        Self {
            name,
            size_bytes,
            align_bytes: WORD_BYTES,
            flags: CacheFlags::empty(),
            ctor: None,
        }
    }

    /// At multiples of `align_bytes`.
    #[must_use]
    pub const fn align(mut self, align_bytes: usize) -> Self {
        self.align_bytes = align_bytes;
        self
    }

    /// With these flags and no others.
    #[must_use]
    pub const fn flags(mut self, flags: CacheFlags) -> Self {
        self.flags = flags;
        self
    }

    /// With a constructor.
    #[must_use]
    pub const fn ctor(mut self, ctor: crate::Ctor) -> Self {
        self.ctor = Some(ctor);
        self
    }
}

/// The free list takes a word of each free object.
pub(crate) const WORD_BYTES: usize = size_of::<u64>();
pub(crate) const CACHE_LINE_BYTES: usize = 64;
/// Slabs are no larger than this unless one object needs it. Linux: `slub_max_order`.
const SLAB_MAX_ORDER: u8 = 3;
/// Objects are numbered by `u16`, and one number means none. Linux: `MAX_OBJS_PER_PAGE`.
const MAX_OBJECTS: usize = 32_767;

/// What a layout is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What the creator said.
    pub args: CacheArgs,
    /// Bytes behind each object that nobody may touch.
    pub redzone_bytes: usize,
    /// With more CPUs, slabs are larger.
    pub nr_cpus: usize,
    /// What free objects are sealed with.
    pub secret: u64,
}

/// The layout of a cache's slabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes that the caller may use.
    pub object_size: usize,
    /// Bytes from one object to the next; below 2^32.
    pub stride: usize,
    /// What every object's address is a multiple of.
    pub align: usize,
    /// Where in a free object the word of the free list lies; above 0 if objects are constructed.
    pub word_at: usize,
    /// Whether objects keep their state while they are free.
    pub is_constructed: bool,
    /// How mistakes are looked for.
    pub debug: DebugFlags,
    /// Bytes on the slab for each object, besides the object.
    pub beside: usize,
    /// The size of slab to ask for first.
    pub order: Order,
    /// The smallest slab that holds an object.
    pub min_order: Order,
    /// What free objects are sealed with.
    pub secret: u64,
}

impl Geometry {
    /// Linux: `calculate_sizes` and `calculate_order`, mm/slub.c.
    pub(crate) fn new(request: &Request) -> Result<Self, SlubError> {
        let CacheArgs {
            size_bytes: object_size,
            align_bytes: align,
            flags,
            ctor,
            ..
        } = request.args;
        if object_size == 0 || !align.is_power_of_two() || align > PAGE_SIZE {
            return Err(SlubError::InvalidLayout);
        }
        if object_size > crate::KMALLOC_MAX_SIZE {
            return Err(SlubError::TooLarge);
        }
        let align = if flags.contains(CacheFlags::HWCACHE_ALIGN) {
            align.max(line_fraction(object_size))
        } else {
            align
        }
        .max(WORD_BYTES);
        // A constructed object keeps its state while it is free, so the word goes behind it.
        let word_at = if ctor.is_some() {
            object_size.next_multiple_of(WORD_BYTES)
        } else {
            0
        };
        let stride = object_size
            .max(word_at + WORD_BYTES)
            .saturating_add(request.redzone_bytes)
            .next_multiple_of(align);
        let min_order = Order::for_size(stride).ok_or(SlubError::TooLarge)?;
        Ok(Self {
            object_size,
            stride,
            align,
            word_at,
            is_constructed: ctor.is_some(),
            debug: DebugFlags::empty(),
            beside: 0,
            order: slab_order(stride, request.nr_cpus).unwrap_or(min_order),
            min_order,
            secret: request.secret,
        })
    }

    /// The same with another stride, and `beside` bytes on the slab for each object.
    pub(crate) fn packed(
        self,
        stride: usize,
        beside: usize,
        nr_cpus: usize,
    ) -> Result<Self, SlubError> {
        let min_order = Order::for_size(stride + beside).ok_or(SlubError::TooLarge)?;
        Ok(Self {
            stride,
            beside,
            order: slab_order(stride + beside, nr_cpus).unwrap_or(min_order),
            min_order,
            ..self
        })
    }

    /// The same with what `debug` needs around each object; as it is, if that makes it too large. Linux: `calculate_sizes`.
    pub(crate) fn debugged(mut self, mut debug: DebugFlags, nr_cpus: usize) -> Self {
        debug.set(
            DebugFlags::POISON,
            debug.contains(DebugFlags::POISON) && !self.is_constructed,
        );
        let bare = self;
        self.debug = debug;
        if !self.has_surroundings() {
            return self;
        }
        let layout = Layout::new(self.object_size, self.align, debug);
        self.word_at = layout.word;
        let stride = (layout.left + layout.padding).next_multiple_of(self.align);
        self.packed(stride, self.beside, nr_cpus).unwrap_or(bare)
    }

    /// Whether mistakes are looked for.
    #[inline]
    pub(crate) const fn is_debugged(&self) -> bool {
        !self.debug.is_empty()
    }

    /// Whether there is more in a stride than the object and the free list's word.
    pub(crate) const fn has_surroundings(&self) -> bool {
        self.debug.intersects(DebugFlags::AROUND)
    }

    /// The colour of every slab of a debugged cache: it makes room for the first object's left red zone.
    pub(crate) fn debug_colour(&self) -> Option<u8> {
        let layout = Layout::of(self)?;
        u8::try_from(layout.left / self.align).ok()
    }

    /// Objects in a slab of `order`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "MAX_OBJECTS is below 1 << 16"
    )]
    pub(crate) fn objects(&self, order: Order) -> u16 {
        (order.size_bytes() / (self.stride + self.beside)).min(MAX_OBJECTS) as u16
    }

    /// How far objects of a slab of that colour are moved back.
    #[inline]
    pub(crate) const fn colour_bytes(&self, colour: u8) -> usize {
        colour as usize * self.align
    }

    /// The stride: dividing by it takes a third of the time that way.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 4 MiB and a page")]
    pub(crate) const fn stride32(&self) -> u32 {
        self.stride as u32
    }
}

/// The largest fraction of a cache line that holds the object, or a whole line. Linux: `calculate_alignment`.
fn line_fraction(object_size: usize) -> usize {
    let mut align = CACHE_LINE_BYTES;
    while align > WORD_BYTES && object_size <= align / 2 {
        align /= 2;
    }
    align
}

/// The smallest slab that wastes little and holds enough objects to be worth a trip to the page source; `None` when
/// not even one object fits a usual slab. Linux: `calculate_order`.
fn slab_order(stride: usize, nr_cpus: usize) -> Option<Order> {
    let max = Order::new(SLAB_MAX_ORDER)?;
    let most = max.size_bytes() / stride;
    let cpu_bits = usize::BITS - nr_cpus.max(1).leading_zeros();
    let wanted = (4 * (cpu_bits as usize + 1)).min(most);
    for objects in (2..=wanted).rev() {
        // Waste at most a sixteenth; rather an eighth, or a quarter, than fewer objects.
        for fraction in [16, 8, 4] {
            let order = least_order(stride, objects, fraction).filter(|order| *order <= max);
            if order.is_some() {
                return order;
            }
        }
    }
    least_order(stride, 1, 1).filter(|order| *order <= max)
}

fn least_order(stride: usize, objects: usize, fraction: usize) -> Option<Order> {
    Order::for_size(objects * stride)?
        .up_to_max()
        .take_while(|order| order.get() <= SLAB_MAX_ORDER)
        .find(|order| order.size_bytes() % stride <= order.size_bytes() / fraction)
}
