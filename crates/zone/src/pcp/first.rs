//! The way from a CPU to the pageset that its requests try first: one load where the host keeps words for each CPU.
#![expect(unsafe_code, reason = "a word of the host is a reference")]

use core::ptr;

use kmm_frame::ZoneType;
use kmm_host::{CpuId, CpuPin, Cpus, LOCAL_WORDS, PhysMap};
use lock_api::RawMutex;

use crate::{FirstPcps, Pcp, Zones};

/// The pageset of nobody: it is empty, takes nothing, and stands where there is no zone. So the fast path need not ask
/// whether there is one.
pub(crate) static NOBODY: Pcp = Pcp::new();

const _: () = assert!(ZoneType::COUNT <= LOCAL_WORDS);

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// The pageset of this CPU that requests of its own node try first which `highest` could serve.
    #[inline(always)]
    pub(crate) fn first_pcp(&self, pin: CpuPin<'_>, highest: ZoneType) -> &'static Pcp {
        if C::HAS_LOCAL_WORDS {
            let word = self.cpus().local_word(pin, highest.index()).cast::<Pcp>();
            // SAFETY: `set_first_pcp` has stored a reference there for every CPU, when the zones were made; nobody else
            // stores words, by the guarantee of `Cpus`.
            return unsafe { &*word };
        }
        match self.first_pcps().get(pin.cpu().index()) {
            Some(first) => first.get(highest),
            None => &NOBODY,
        }
    }

    /// Changes when memory comes or goes.
    pub(crate) fn set_first_pcp(
        &self,
        cpu: usize,
        first: &FirstPcps,
        highest: ZoneType,
        pcp: Option<&'static Pcp>,
    ) {
        let pcp = pcp.unwrap_or(&NOBODY);
        first.set(highest, pcp);
        if let (true, Ok(cpu)) = (C::HAS_LOCAL_WORDS, u32::try_from(cpu)) {
            let word = ptr::from_ref(pcp).cast_mut().cast();
            self.cpus()
                .set_local_word(CpuId::new(cpu), highest.index(), word);
        }
    }
}
