//! Emptying the stocks of CPUs. Linux: `drain_pages`, `drain_all_pages`, `page_alloc_cpu_dead`, mm/page_alloc.c.
//!
//! A stock is its CPU's own: there is no lock that another CPU could take. So another CPU asks ([`Zones::request_drain`]), and
//! the owner gives its stock back the next time that it has to fill or empty it anyway, or at once when the host makes it
//! call [`Zones::drain_pcp`]: by an interrupt, or when it is idle. An interrupt that hits the fast path finds the mark and
//! leaves the stock alone; the request stays, and the path that was interrupted takes a few instructions more.
#![expect(
    unsafe_code,
    reason = "two functions trust their caller that a CPU stands still"
)]

use kmm_frame::Order;
use kmm_host::{CpuId, CpuPin, Cpus, PhysMap};
use lock_api::RawMutex;

use crate::{Pcp, Zone, Zones};

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Gives this CPU's stock of pages back to the zones; how many. Linux: `drain_local_pages`.
    pub fn drain_pcp(&self, pin: CpuPin<'_>) -> usize {
        let drain = |zone: &Zone<L>| match zone.drain(pin) {
            Ok(count) => count,
            Err(refused) => {
                self.report_refused(refused, Order::ZERO);
                0
            }
        };
        self.all().map(drain).sum()
    }

    /// Gives this CPU's stock back, and makes the others do so; how many pages of this CPU. Linux: `drain_all_pages`.
    ///
    /// `run_on` gets each CPU that has something, and makes it call [`Zones::drain_pcp`] soon: by an interrupt. It may be
    /// back before that has happened: [`Zones::is_drained`].
    pub fn drain_all_cpus(&self, pin: CpuPin<'_>, mut run_on: impl FnMut(CpuId)) -> usize {
        for cpu in (0..).take(self.cpus().nr_cpus()).map(CpuId::new) {
            if cpu != pin.cpu() && self.pcps_of(cpu).any(|pcp| pcp.count() > 0) {
                self.request_drain(cpu);
                run_on(cpu);
            }
        }
        self.drain_pcp(pin)
    }

    /// Asks a CPU to give its stock back when it next fills or empties it.
    ///
    /// # Context
    /// From any CPU and any context.
    pub fn request_drain(&self, cpu: CpuId) {
        self.pcps_of(cpu).for_each(|pcp| pcp.drain_request().ask());
    }

    /// Whether a CPU has given back what it had when it was last asked to. What it had is on the free lists then.
    #[must_use]
    pub fn is_drained(&self, cpu: CpuId) -> bool {
        self.pcps_of(cpu).all(|pcp| pcp.drain_request().is_served())
    }

    /// Gives the stock of a CPU back that does not run any more, and passes on what it has counted; how many pages.
    /// Linux: `page_alloc_cpu_dead`.
    ///
    /// # Safety
    /// The CPU holds no pin, nor gets one, until this is done, and what it did before has happened before.
    pub unsafe fn cpu_dead(&self, cpu: CpuId) -> usize {
        let count = self.drain_still(self.all(), |nr| nr == cpu.index());
        self.fold_dead_counts(cpu);
        count
    }

    /// Gives the stock of every CPU back to the zones; how many pages.
    ///
    /// # Safety
    /// No other CPU allocates or frees pages of these zones meanwhile.
    pub unsafe fn drain_all(&self) -> usize {
        self.drain_still(self.all(), |_| true)
    }

    fn drain_still(
        &self,
        zones: impl Iterator<Item = &'static Zone<L>>,
        stands_still: impl Fn(usize) -> bool,
    ) -> usize {
        let mut sum = 0;
        for zone in zones {
            for (_, pcp) in zone
                .pcps()
                .iter()
                .enumerate()
                .filter(|(nr, _)| stands_still(*nr))
            {
                match zone.drain_one(pcp) {
                    Ok(count) => sum += count,
                    Err(refused) => self.report_refused(refused, Order::ZERO),
                }
            }
        }
        sum
    }

    fn pcps_of(&self, cpu: CpuId) -> impl Iterator<Item = &'static Pcp> {
        self.all()
            .filter_map(move |zone| zone.pcps().get(cpu.index()))
    }
}
