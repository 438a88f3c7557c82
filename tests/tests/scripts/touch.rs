//! What happens when a program touches a page.

use kmm::fault::{FaultCause, FaultError, SegvCode};
use kmm::host::CpuId;
use kmm::vma::Prot;
use kmm_sim::{Access, Fault, Mode, Rng};
use kmm_tests::Booted;

use crate::{Data, END, FILE_PAGES, FIRST, PAGE, Process, World, va};

/// How an access ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Done(u64),
    Segv(SegvCode),
    Bus,
    OutOfMemory,
}

impl World {
    pub(crate) fn touch(&mut self, rng: &mut Rng, p: usize) {
        let page = rng.range(FIRST - 2..END + 2);
        let access = *rng.pick(&[Access::Read, Access::Write, Access::Write, Access::Execute]);
        let value = self.next_value;
        self.next_value += 1;
        let cpu = CpuId::new(u32::from(rng.one_in(2)));
        let expected = self.expect(p, page, access);
        let got = access_page(
            &self.booted,
            &mut self.processes[p],
            cpu,
            page,
            access,
            value,
        );
        if got == Outcome::OutOfMemory {
            assert!(self.scarce, "out of memory with plenty of it");
            return self.done("out of memory");
        }
        assert_eq!(got, expected, "{access:?} of page {page:#x}");
        match got {
            Outcome::Done(_) if access == Access::Write => {
                if let Some(entry) = self.processes[p].pages.get_mut(&page) {
                    match &mut entry.data {
                        Data::Anon(held) => *held = value,
                        &mut Data::File {
                            file,
                            page,
                            shared: true,
                            ..
                        } => {
                            self.contents.insert((file, page), value);
                        }
                        Data::File { own, .. } => *own = Some(value),
                    }
                }
                self.done("write");
            }
            Outcome::Done(_) => self.done("read"),
            Outcome::Segv(_) => self.done("segv"),
            Outcome::Bus => self.done("bus"),
            Outcome::OutOfMemory => {}
        }
    }

    /// What the access must do, by the oracle alone. A write tells what was there before.
    fn expect(&self, p: usize, page: u64, access: Access) -> Outcome {
        let Some(entry) = self.processes[p].pages.get(&page) else {
            return Outcome::Segv(SegvCode::MapErr);
        };
        let allowed = match access {
            Access::Read => !entry.prot.is_empty(),
            Access::Write => entry.prot.contains(Prot::WRITE),
            Access::Execute => entry.prot.contains(Prot::EXEC),
        };
        if !allowed {
            return Outcome::Segv(SegvCode::AccErr);
        }
        match entry.data {
            Data::Anon(value) => Outcome::Done(value),
            Data::File {
                own: Some(value), ..
            } => Outcome::Done(value),
            Data::File { page, .. } if page >= FILE_PAGES => Outcome::Bus,
            Data::File { file, page, .. } => {
                Outcome::Done(self.contents.get(&(file, page)).copied().unwrap_or(0))
            }
        }
    }
}

/// Touches a page as a program does, with the kernel serving its faults. What the page held before.
fn access_page(
    booted: &Booted,
    process: &mut Process,
    cpu: CpuId,
    page: u64,
    access: Access,
    value: u64,
) -> Outcome {
    let (machine, root) = (booted.machine, process.space.root());
    for _ in 0..4 {
        let addr = va(page) + (value % 512) / 8 * 8;
        let reached = machine.access(cpu, root, addr, access, Mode::User);
        let fault = match reached {
            Ok(phys) => {
                // The number stands at the start of the page, wherever the program happened to touch it.
                let start = phys.align_down(PAGE);
                let mut bytes = [0; 8];
                machine.read_phys(start, &mut bytes);
                if access == Access::Write {
                    machine.write_phys(start, &value.to_le_bytes());
                }
                return Outcome::Done(u64::from_le_bytes(bytes));
            }
            Err(Fault::Page(fault)) => fault,
            Err(fault) => panic!("{fault}"),
        };
        match process
            .space
            .fault(fault.va, FaultCause::from_error_code(fault.error_code))
        {
            Ok(_) => {}
            Err(FaultError::Segv(code)) => return Outcome::Segv(code),
            Err(FaultError::Bus) => return Outcome::Bus,
            Err(FaultError::OutOfMemory) => return Outcome::OutOfMemory,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("page {page:#x} faults for ever");
}
