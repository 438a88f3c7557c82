//! Processes.

use core::ops::Range;

use kmm_fault::{
    FaultCause, FaultEnv, FaultError, FaultKind, Sharing, Space, Usage, forget, frame_of, handle,
    put_page, restrict, share,
};
use kmm_frame::{Pfn, PhysAddr, VirtAddr};
use kmm_host::{CpuId, TlbControl, TlbTarget};
use kmm_pagetable_walker::{Pte, Root, Span, TableCounter};
use kmm_sim::{Access, Fault, Mode};
use kmm_vma::{MapFlags, Mm, MmapReq, Prot, VmFlags};

use super::{File, PAGE, RW, World, va};

pub struct Process {
    pub world: &'static World,
    pub mm: Mm<File>,
    pub root: Option<Root>,
    pub tables: TableCounter,
    pub usage: Usage,
    pub cpu: CpuId,
}

impl Process {
    fn root(&self) -> &Root {
        self.root.as_ref().expect("alive")
    }

    pub fn root_pfn(&self) -> Pfn {
        self.root().pfn()
    }

    /// One fault.
    pub fn fault(&mut self, at: VirtAddr, code: u64) -> Result<FaultKind, FaultError> {
        self.fault_with(self.world.machine.tlb(), at, code)
    }

    /// One fault, with another way to flush.
    pub fn fault_with<T: TlbControl>(
        &mut self,
        tlb: &T,
        at: VirtAddr,
        code: u64,
    ) -> Result<FaultKind, FaultError> {
        let env = FaultEnv {
            mapper: self.world.mapper(&self.tables),
            pages: &self.world.pages,
            phys: self.world.machine.phys(),
            tlb,
            zero_page: self.world.zero_page,
        };
        let mut space = Space {
            mm: &mut self.mm,
            root: self.root.as_mut().expect("alive"),
            usage: &mut self.usage,
        };
        handle(&env, &mut space, at, FaultCause::from_error_code(code))
    }

    /// Accesses as the program or the kernel does, with as many faults as it takes: where it is, and the faults.
    pub fn access(
        &mut self,
        at: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<(PhysAddr, Vec<FaultKind>), FaultError> {
        let mut faults = Vec::new();
        loop {
            let root = self.root_pfn();
            match self.world.machine.access(self.cpu, root, at, access, mode) {
                Ok(phys) => return Ok((phys, faults)),
                Err(Fault::Page(fault)) => faults.push(self.fault(fault.va, fault.error_code)?),
                Err(other) => panic!("{other}"),
            }
            assert!(
                faults.len() < 3,
                "{access:?} at {at} faults for ever: {faults:?}"
            );
        }
    }

    /// The faults that an access of the program takes.
    pub fn touch(&mut self, page: u64, access: Access) -> Result<Vec<FaultKind>, FaultError> {
        let touched = self.access(va(page), access, Mode::User);
        touched.map(|(_, faults)| faults)
    }

    pub fn read(&mut self, at: VirtAddr) -> Result<u8, FaultError> {
        let (phys, _) = self.access(at, Access::Read, Mode::User)?;
        Ok(self.world.byte(phys))
    }

    pub fn write(&mut self, at: VirtAddr, byte: u8) -> Result<(), FaultError> {
        let (phys, _) = self.access(at, Access::Write, Mode::User)?;
        self.world.machine.write_phys(phys, &[byte]);
        Ok(())
    }

    /// The frame of a page now.
    pub fn frame(&self, page: u64) -> Option<Pfn> {
        let mapper = self.world.mapper(&self.tables);
        frame_of(mapper.walk(self.root(), va(page)).pte)
    }

    pub fn for_each(&self, mut f: impl FnMut(u64, Pte)) {
        let mapper = self.world.mapper(&self.tables);
        let all = VirtAddr::ZERO..VirtAddr::new(1 << 47);
        let walked = mapper.for_each(self.root(), all, |span| {
            if let Span::Mapped(leaf) | Span::NotPresent(leaf) = span {
                f(leaf.va.page_number(), leaf.pte);
            }
        });
        assert_eq!(walked, Ok(()));
    }

    pub fn map(&mut self, pages: Range<u64>, prot: Prot) {
        let req = MmapReq::anonymous((pages.end - pages.start) * PAGE, prot);
        self.map_req(req.fixed_at(va(pages.start)));
    }

    pub fn map_stack(&mut self, pages: Range<u64>) {
        let req = MmapReq::anonymous((pages.end - pages.start) * PAGE, RW);
        let mut req = req.fixed_at(va(pages.start));
        req.flags |= MapFlags::GROWSDOWN;
        self.map_req(req);
    }

    pub fn map_file(&mut self, pages: Range<u64>, prot: Prot, file: File, shared: bool) {
        self.map_req(MmapReq {
            addr: va(pages.start),
            len_bytes: (pages.end - pages.start) * PAGE,
            prot,
            flags: MapFlags::FIXED
                | if shared {
                    MapFlags::SHARED
                } else {
                    MapFlags::PRIVATE
                },
            file: Some((file, 0)),
            may: VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC,
        });
    }

    fn map_req(&mut self, req: MmapReq<File>) {
        let mapped = self.mm.mmap(req).expect("room");
        if mapped.replaced {
            self.zap(mapped.range);
        }
    }

    pub fn unmap(&mut self, pages: Range<u64>) {
        let range = self
            .mm
            .munmap(va(pages.start), (pages.end - pages.start) * PAGE)
            .expect("a range");
        self.zap(range);
    }

    fn zap(&mut self, range: Range<VirtAddr>) {
        let world = self.world;
        let map = world.machine.mem_map();
        let target = TlbTarget::User {
            root: self.root_pfn(),
        };
        let mapper = world.mapper(&self.tables);
        let mut gather = mapper.gather(target, world.machine.tlb());
        let mut gone = Vec::new();
        let (root, usage) = (self.root.as_mut().expect("alive"), &mut self.usage);
        mapper
            .unmap_range(root, range, &mut gather, |leaf, _| {
                gone.extend(forget(&map, &world.pages, world.zero_page, leaf, usage));
            })
            .expect("base pages");
        gather.finish();
        for pfn in gone {
            // SAFETY: the reference of an entry that was cleared and flushed.
            unsafe { put_page(&map, &world.pages, pfn) };
        }
    }

    pub fn protect(&mut self, pages: Range<u64>, prot: Prot) {
        let len_bytes = (pages.end - pages.start) * PAGE;
        let changed = self.mm.mprotect(va(pages.start), len_bytes, prot);
        let range = changed.expect("areas").range;
        let mapper = self.world.mapper(&self.tables);
        let target = TlbTarget::User {
            root: self.root_pfn(),
        };
        let mut gather = mapper.gather(target, self.world.machine.tlb());
        let root = self.root.as_mut().expect("alive");
        mapper
            .protect_range(root, range, &mut gather, |leaf| restrict(leaf, prot.into()))
            .expect("base pages");
        gather.finish();
    }

    /// A child that runs on another CPU.
    pub fn fork(&mut self, cpu: u32) -> Process {
        self.try_fork(cpu).expect("memory for a child")
    }

    pub fn try_fork(&mut self, cpu: u32) -> Option<Process> {
        let world = self.world;
        let map = world.machine.mem_map();
        let mut child = world.try_process(cpu, self.mm.fork().ok()?)?;
        let target = TlbTarget::User {
            root: self.root_pfn(),
        };
        let mut gather = world
            .mapper(&self.tables)
            .gather(target, world.machine.tlb());
        let mapper = world.mapper(&child.tables);
        let parent_root = self.root.as_mut().expect("alive");
        let child_root = child.root.as_mut().expect("alive");
        for (range, vma) in self.mm.iter() {
            let sharing = if vma.is_private() {
                Sharing::CopyOnWrite
            } else {
                Sharing::Shared
            };
            let usage = &mut child.usage;
            let copied = mapper.copy_user_range(
                parent_root,
                child_root,
                range,
                &mut gather,
                |leaf, parent| {
                    share(
                        &map,
                        &world.pages,
                        world.zero_page,
                        sharing,
                        leaf,
                        parent,
                        usage,
                    )
                },
            );
            if copied.is_err() {
                gather.finish();
                child.exit();
                return None;
            }
        }
        gather.finish();
        Some(child)
    }

    pub fn exit(mut self) {
        self.leave();
    }

    fn leave(&mut self) {
        self.zap(VirtAddr::ZERO..VirtAddr::new(1 << 47));
        if let Some(root) = self.root.take() {
            let mapper = self.world.mapper(&self.tables);
            let target = TlbTarget::User { root: root.pfn() };
            let mut gather = mapper.gather(target, self.world.machine.tlb());
            mapper.free_root(root, &mut gather);
            gather.finish();
        }
    }

    /// Everything that can be seen of the process.
    pub fn picture(&self) -> String {
        let map = self.world.machine.mem_map();
        let mut text = format!("{:?} {}\n", self.usage, self.tables.nr_tables());
        for area in self.mm.iter() {
            text += &format!("{area:x?}\n");
        }
        self.for_each(|page, pte| {
            let counts =
                frame_of(pte).map(|pfn| (map.page(pfn).map_count(), map.page(pfn).ref_count()));
            text += &format!("{page:x} {pte:?} {counts:?}\n");
        });
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.root.is_some() && !std::thread::panicking() {
            self.leave();
        }
    }
}
