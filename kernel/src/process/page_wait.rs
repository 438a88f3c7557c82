//! Tasks that wait for pages: the kernel's side of `kmm_host::WaitQueue`. Who works on a CPU without tasks waits by turning on the spot.

use kmm::host::{PageWaits, WaitQueue};

use super::scheduler::{self, Channel};
use crate::smp;

/// As many queues as Linux has (`folio_wait_table`).
const NR_QUEUES: usize = 256;

static QUEUES: [TaskQueue; NR_QUEUES] = [const { TaskQueue(0) }; NR_QUEUES];

/// Where tasks wait for pages.
pub static PAGE_WAITS: PageWaits<TaskQueue> = PageWaits::new(&QUEUES);

/// A queue of tasks. Its address is the channel, so it must have one of its own.
#[derive(Debug)]
pub struct TaskQueue(#[expect(dead_code, reason = "gives it an address")] u8);

impl WaitQueue for TaskQueue {
    fn wait_until(&self, is_done: &mut dyn FnMut() -> bool) {
        if smp::is_boot_cpu() {
            return scheduler::wait_asking(Channel::of(self), is_done);
        }
        // There are no other tasks to run here.
        while !is_done() {
            core::hint::spin_loop();
            smp::poll();
        }
    }

    fn wake_all(&self) {
        scheduler::wake(Channel::of(self));
    }
}
