//! Which sizes are kept, and where their cells lie.

use kmm_frame::{MAX_ORDER, NR_ORDERS, Order};

/// A size of blocks that pagesets keep: all are. Linux keeps orders 0 to 3, and that of huge pages: `pcp_allowed_order`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(usize);

/// Stacks of a size: one for each migrate type that is kept. Linux: `MIGRATE_PCPTYPES`.
pub(crate) const KINDS: usize = 3;

const ORDERS: [Order; Size::COUNT] = {
    let mut orders = [Order::ZERO; Size::COUNT];
    let mut nr = 0;
    while let Some(order) = Order::new(nr) {
        orders[nr as usize] = order;
        nr += 1;
    }
    assert!(nr as usize == Size::COUNT, "a size for each order");
    orders
};

/// Blocks of one type.
const CAPACITIES: [usize; Size::COUNT] = [512, 128, 64, 32, 4, 4, 4, 4, 4, 16, 4];

const FIRST_CELLS: [usize; Size::COUNT] = {
    let mut first = [0; Size::COUNT];
    let mut nr = 1;
    while nr < Size::COUNT {
        first[nr] = first[nr - 1] + KINDS * CAPACITIES[nr - 1];
        nr += 1;
    }
    first
};

const ALL: [Size; Size::COUNT] = {
    let mut all = [Size::PAGE; Size::COUNT];
    let mut nr = 0;
    while nr < Size::COUNT {
        all[nr] = Size(nr);
        nr += 1;
    }
    all
};

impl Size {
    pub(crate) const COUNT: usize = NR_ORDERS;
    /// Pages.
    pub(crate) const PAGE: Self = Self(0);
    /// Pageblocks. Filled from the free lists as small ones are.
    pub(crate) const HUGE: Self = Self(Order::PAGEBLOCK.index());
    /// Nothing is larger.
    pub(crate) const LARGEST: Self = Self(MAX_ORDER.index());
    /// Sizes of which many are wanted. Of the others, but for [`Size::HUGE`], only what comes back is kept.
    pub(crate) const SMALL: &'static [Self] = ALL.split_at(NR_SMALL).0;
    /// The others.
    pub(crate) const LARGE: &'static [Self] = ALL.split_at(NR_SMALL).1;
    pub(crate) const ALL: [Self; Self::COUNT] = ALL;
    /// All cells of all sizes.
    pub(crate) const CELLS: usize =
        FIRST_CELLS[Self::LARGEST.0] + KINDS * CAPACITIES[Self::LARGEST.0];

    /// The size of `order`.
    #[inline(always)]
    pub(crate) const fn of(order: Order) -> Self {
        Self(order.index())
    }

    #[inline(always)]
    pub(crate) const fn index(self) -> usize {
        self.0
    }

    #[inline(always)]
    pub(crate) const fn order(self) -> Order {
        ORDERS[self.0]
    }

    /// How many blocks of each type fit.
    #[inline(always)]
    pub(crate) const fn capacity(self) -> usize {
        CAPACITIES[self.0]
    }

    /// Where its cells begin.
    #[inline(always)]
    pub(crate) const fn first_cell(self) -> usize {
        FIRST_CELLS[self.0]
    }

    /// One of [`Size::LARGE`].
    #[inline]
    pub(crate) const fn is_large(self) -> bool {
        self.0 >= NR_SMALL
    }
}

/// Orders 0 to 3. Linux: `PAGE_ALLOC_COSTLY_ORDER`.
const NR_SMALL: usize = 4;
