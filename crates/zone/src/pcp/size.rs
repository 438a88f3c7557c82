//! Which sizes are kept, and where their cells lie.

use kmm_frame::Order;

/// A size of blocks that pagesets keep: orders 0 to 3, and that of huge pages. Linux: `pcp_allowed_order`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(usize);

/// Stacks of a size: one for each migrate type that is kept. Linux: `MIGRATE_PCPTYPES`.
pub(crate) const KINDS: usize = 3;

const ORDERS: [Order; Size::COUNT] = {
    let orders = (Order::new(1), Order::new(2), Order::new(3));
    match orders {
        (Some(one), Some(two), Some(three)) => [Order::ZERO, one, two, three, Order::PAGEBLOCK],
        _ => panic!("orders to 3 exist"),
    }
};

/// Blocks of one type.
const CAPACITIES: [usize; Size::COUNT] = [512, 128, 64, 32, 16];

const FIRST_CELLS: [usize; Size::COUNT] = {
    let mut first = [0; Size::COUNT];
    let mut nr = 1;
    while nr < Size::COUNT {
        first[nr] = first[nr - 1] + KINDS * CAPACITIES[nr - 1];
        nr += 1;
    }
    first
};

impl Size {
    pub(crate) const COUNT: usize = 5;
    /// Pages.
    pub(crate) const PAGE: Self = Self(0);
    /// Huge pages.
    pub(crate) const HUGE: Self = Self(Self::COUNT - 1);
    pub(crate) const ALL: [Self; Self::COUNT] = [Self(0), Self(1), Self(2), Self(3), Self::HUGE];
    /// All cells of all sizes.
    pub(crate) const CELLS: usize = FIRST_CELLS[Self::HUGE.0] + KINDS * CAPACITIES[Self::HUGE.0];

    /// The size of `order`, if it is kept.
    #[inline(always)]
    pub(crate) const fn of(order: Order) -> Option<Self> {
        match order.index() {
            nr @ 0..=3 => Some(Self(nr)),
            9 => Some(Self::HUGE),
            _ => None,
        }
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

    pub(crate) const fn is_huge(self) -> bool {
        self.0 == Self::HUGE.0
    }
}

const _: () = assert!(Order::PAGEBLOCK.index() == 9);
