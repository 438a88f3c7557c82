//! The machine.

use std::collections::BTreeMap;

use kmm_fault::{Usage, frame_of};
use kmm_frame::{Gfp, PageFlags, Pfn, PhysAddr};
use kmm_host::{CpuId, PageReq, PageSource};
use kmm_pagetable_walker::{KernelHalf, Levels, Mapper, TableCounter};
use kmm_sim::{Config, FailNth, FreeListSource, Machine, SimPtes};
use kmm_vma::{Limits, Mm, MmLayout, VmFlags};

use super::{File, PAGE, Process, va};

pub type Source = FailNth<FreeListSource>;

/// A machine with a kernel's top table and the page of zeros.
pub struct World {
    pub machine: &'static Machine,
    pub pages: Source,
    levels: Levels,
    kernel: KernelHalf,
    pub zero_page: Pfn,
    /// Frames in use when there is no process.
    pub idle: usize,
}

impl World {
    pub fn new() -> &'static Self {
        Self::with_levels(Levels::Four)
    }

    pub fn with_levels(levels: Levels) -> &'static Self {
        let config = Config::with_mib(16).cpus(4);
        let machine = Machine::new(match levels {
            Levels::Four => config,
            Levels::Five => config.five_levels(),
        });
        let pages = FailNth::new(FreeListSource::new(machine));
        let tables = TableCounter::new();
        // SAFETY: source, store and descriptors belong to one machine.
        let mapper =
            unsafe { Mapper::new(machine.ptes(), &pages, machine.mem_map(), levels, &tables) };
        let mut root = mapper.alloc_root().expect("a table");
        let start = levels.kernel_start();
        let kernel = mapper
            .prealloc_kernel_pgds(&mut root, start..start + levels.top().size_bytes())
            .expect("tables");
        // It is never freed.
        let _ = root.pfn();
        let zero = pages.alloc(PageReq::page(Gfp::KERNEL | Gfp::ZERO));
        let (zero_page, _) = zero.expect("a page of zeros").into_raw();
        let idle = pages.inner().outstanding();
        Box::leak(Box::new(Self {
            machine,
            pages,
            levels,
            kernel,
            zero_page,
            idle,
        }))
    }

    pub fn mapper<'a>(&'a self, tables: &'a TableCounter) -> Mapper<'a, SimPtes, Source> {
        // SAFETY: source, store and descriptors belong to one machine; the fault handler enters frames that it owns.
        unsafe {
            Mapper::new(
                self.machine.ptes(),
                &self.pages,
                self.machine.mem_map(),
                self.levels,
                tables,
            )
        }
    }

    pub fn process(&'static self, cpu: u32) -> Process {
        self.process_with(cpu, Mm::new(MmLayout::default(), Limits::default()))
    }

    pub fn process_with(&'static self, cpu: u32, mm: Mm<File>) -> Process {
        self.try_process(cpu, mm).expect("a top table")
    }

    pub fn try_process(&'static self, cpu: u32, mm: Mm<File>) -> Option<Process> {
        let tables = TableCounter::new();
        let root = self.mapper(&tables).alloc_user_root(self.kernel).ok()?;
        Some(Process {
            world: self,
            mm,
            root: Some(root),
            tables,
            usage: Usage::default(),
            cpu: CpuId::new(cpu),
        })
    }

    /// The first bytes of a frame.
    pub fn byte(&self, at: PhysAddr) -> u8 {
        let mut byte = [0];
        self.machine.read_phys(at, &mut byte);
        byte[0]
    }

    pub fn page_of_zeros_is_untouched(&self) {
        let mut bytes = [1; PAGE as usize];
        self.machine.read_phys(self.zero_page.phys(), &mut bytes);
        assert!(
            bytes.iter().all(|&byte| byte == 0),
            "the page of zeros was written"
        );
    }

    /// Every frame's counts are what tables and files hold of it.
    pub fn audit(&self, processes: &[&Process], files: &[File]) {
        self.page_of_zeros_is_untouched();
        let mut mapped = BTreeMap::<Pfn, i32>::new();
        let mut held = BTreeMap::<Pfn, i32>::new();
        for process in processes {
            let (mut anon, mut file) = (0, 0);
            process.for_each(|page, pte| {
                let (area, vma) = process.mm.lookup(va(page)).expect("a page without an area");
                let pfn = frame_of(pte).expect("an entry without a frame");
                let rights = pte.flags();
                use kmm_pagetable_walker::PteFlags as P;
                let can_write = rights.contains(P::RW);
                assert!(
                    !can_write || vma.flags.contains(VmFlags::WRITE),
                    "{area:?} {pte:?}"
                );
                let can_exec = !rights.contains(P::NX);
                assert!(
                    !can_exec || vma.flags.contains(VmFlags::EXEC),
                    "{area:?} {pte:?}"
                );
                if pfn == self.zero_page {
                    assert!(!can_write && vma.is_private(), "INV-2");
                    return;
                }
                *mapped.entry(pfn).or_default() += 1;
                if can_write && vma.is_private() {
                    let page = self.machine.mem_map().page(pfn);
                    let alone = (page.map_count(), page.ref_count()) == (1, 1);
                    assert!(
                        alone && page.test(PageFlags::ANON),
                        "INV-4: {pfn} at {page:?}"
                    );
                }
                if self.machine.mem_map().page(pfn).test(PageFlags::ANON) {
                    anon += 1;
                } else {
                    file += 1;
                }
            });
            assert_eq!(process.usage.anon_pages, anon);
            assert_eq!(process.usage.file_pages, file);
            assert_eq!(process.usage.rss_pages(), anon + file);
        }
        for file in files {
            for &pfn in file.frames().iter() {
                *held.entry(pfn).or_default() += 1;
            }
        }
        for pfn in self.machine.spanned().iter() {
            let page = self.machine.mem_map().page(pfn);
            let entries = mapped.get(&pfn).copied().unwrap_or(0);
            let refs = entries + held.get(&pfn).copied().unwrap_or(0);
            if refs > 0 {
                assert_eq!(
                    (page.map_count(), page.ref_count()),
                    (entries, refs),
                    "{pfn}"
                );
            } else {
                assert_eq!(page.map_count(), 0, "{pfn} is mapped nowhere");
                assert!(!page.test(PageFlags::ANON), "{pfn} is nobody's");
            }
        }
        let frames = mapped
            .keys()
            .chain(held.keys())
            .collect::<std::collections::BTreeSet<_>>();
        let tables: usize = processes.iter().map(|p| p.tables.nr_tables()).sum();
        let outstanding = self.pages.inner().outstanding();
        assert_eq!(
            outstanding,
            self.idle + frames.len() + tables,
            "a frame is lost"
        );
    }
}
