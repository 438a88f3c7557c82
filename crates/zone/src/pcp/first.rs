//! The way from a CPU to the pageset that its requests try first: one load where the host keeps words for each CPU.
#![expect(unsafe_code, reason = "a word of the host is a reference")]

use core::ptr;

use kmm_frame::ZoneType;
use kmm_host::{CpuId, CpuPin, Cpus, LOCAL_WORD_OBJECTS, PhysMap};
use lock_api::RawMutex;

use crate::{FirstPcps, Pcp, Zones};

/// The pageset of nobody: it is empty, takes nothing, and stands where there is no zone. So the fast path need not ask
/// whether there is one.
pub(crate) static NOBODY: Pcp = Pcp::new();

/// What the fast path is going to do with the descriptor of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Nothing.
    Frozen = 0,
    /// Count holders: it finds [`NOBODY`] where the zone's descriptors do not lie in an array. So it need not ask.
    Counted = 1,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Frozen, Self::Counted];
    /// Words of each way.
    pub(crate) const WORDS: usize = 8;
}

const _: () = assert!(ZoneType::COUNT <= Way::WORDS);
const _: () = assert!(Way::WORDS + ZoneType::COUNT <= LOCAL_WORD_OBJECTS);

const fn word_of(highest: ZoneType, way: Way) -> usize {
    way as usize * Way::WORDS + highest.index()
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// The pageset of this CPU that requests of its own node try first which `highest` could serve.
    #[inline(always)]
    pub(crate) fn first_pcp(&self, pin: CpuPin<'_>, highest: ZoneType, way: Way) -> &'static Pcp {
        if C::HAS_LOCAL_WORDS {
            let nr = word_of(highest, way);
            let word = self.cpus().local_word(pin, nr).cast::<Pcp>();
            // SAFETY: `set_first_pcp` has stored a reference there for every CPU, when the zones were made; nobody else
            // stores words, by the guarantee of `Cpus`.
            return unsafe { &*word };
        }
        let cpu = pin.cpu().index();
        debug_assert!(cpu < self.first_pcps().len(), "cpu {cpu}");
        // SAFETY: one for each CPU, and CPUs are numbered below that, by the guarantee of `Cpus`.
        let first = unsafe { self.first_pcps().get_unchecked(cpu) };
        first.get(highest, way)
    }

    /// Changes when memory comes or goes.
    pub(crate) fn set_first_pcp(
        &self,
        cpu: usize,
        first: &FirstPcps,
        highest: ZoneType,
        pcp: Option<&'static Pcp>,
    ) {
        for way in Way::ALL {
            let is_for = |pcp: &&Pcp| way == Way::Frozen || pcp.has_pages();
            let pcp = pcp.filter(is_for).unwrap_or(&NOBODY);
            first.set(highest, way, pcp);
            if let (true, Ok(cpu)) = (C::HAS_LOCAL_WORDS, u32::try_from(cpu)) {
                let word = ptr::from_ref(pcp).cast_mut().cast();
                self.cpus()
                    .set_local_word(CpuId::new(cpu), word_of(highest, way), word);
            }
        }
    }
}
