//! Random processes that map, touch, protect, fork and exit, against an oracle that knows bytes only: what each page of
//! each process must show, and who may do what. Pages run out now and then.

mod common;

use std::collections::BTreeMap;

use common::{File, PAGE, Process, RW, World, va};
use kmm_fault::{FaultError, FileSource, SegvCode};
use kmm_sim::{Access, Mode, Rng, seeded};
use kmm_vma::Prot;

const FIRST: u64 = 100;
const NR_PAGES: u64 = 24;
const FILE_PAGES: u64 = 6;

/// What a page shows.
#[derive(Clone, Copy, Debug)]
enum Shows {
    /// Its own byte.
    Own(u8),
    /// The file's, until it is written.
    FileUntilWritten(u64),
    /// The file's.
    File(u64),
}

#[derive(Clone, Default)]
struct Model {
    pages: BTreeMap<u64, (Prot, Shows)>,
}

struct Script {
    world: &'static World,
    rng: Rng,
    file: File,
    file_bytes: Vec<u8>,
    alive: Vec<(Process, Model)>,
    /// Successes and refusals of each kind, to see that the script does something.
    seen: BTreeMap<String, u32>,
}

impl Script {
    fn count(&mut self, what: &str) {
        *self.seen.entry(what.into()).or_default() += 1;
    }

    fn some_pages(&mut self) -> core::ops::Range<u64> {
        let first = FIRST + self.rng.below(NR_PAGES);
        let nr = 1 + self.rng.below(6);
        first..(first + nr).min(FIRST + NR_PAGES)
    }

    fn some_prot(&mut self) -> Prot {
        let all = [
            Prot::empty(),
            Prot::READ,
            RW,
            RW,
            RW | Prot::EXEC,
            Prot::EXEC,
        ];
        all[self.rng.index(all.len())]
    }

    fn map(&mut self, who: usize) {
        let (pages, prot) = (self.some_pages(), self.some_prot());
        let kind = self.rng.below(3);
        let file = self.file;
        let (process, model) = &mut self.alive[who];
        match kind {
            0 => process.map(pages.clone(), prot),
            _ => process.map_file(pages.clone(), prot, file, kind == 2),
        }
        for page in pages.clone() {
            let pgoff = page - pages.start;
            let shows = match kind {
                0 => Shows::Own(0),
                1 => Shows::FileUntilWritten(pgoff),
                _ => Shows::File(pgoff),
            };
            model.pages.insert(page, (prot, shows));
        }
    }

    fn protect(&mut self, who: usize) {
        let (pages, prot) = (self.some_pages(), self.some_prot());
        let (process, model) = &mut self.alive[who];
        if !pages.clone().all(|page| model.pages.contains_key(&page)) {
            return;
        }
        process.protect(pages.clone(), prot);
        for page in pages {
            if let Some((old, _)) = model.pages.get_mut(&page) {
                *old = prot;
            }
        }
        self.count("protect");
    }

    fn unmap(&mut self, who: usize) {
        let pages = self.some_pages();
        let (process, model) = &mut self.alive[who];
        process.unmap(pages.clone());
        for page in pages {
            model.pages.remove(&page);
        }
    }

    fn fork(&mut self, who: usize) {
        if self.alive.len() == 4 {
            return;
        }
        let cpu = (0..4).find(|cpu| self.alive.iter().all(|(p, _)| p.cpu.index() != *cpu));
        let cpu = u32::try_from(cpu.unwrap_or(0)).unwrap_or(0);
        let (process, model) = &mut self.alive[who];
        let model = model.clone();
        let what = match process.try_fork(cpu) {
            Some(child) => {
                self.alive.push((child, model));
                "fork"
            }
            None => "fork without memory",
        };
        self.count(what);
    }

    fn exit(&mut self, who: usize) {
        if self.alive.len() > 1 {
            self.alive.swap_remove(who).0.exit();
            self.count("exit");
        }
    }

    /// What must come of an access: the byte that is there, or why not.
    fn expect(&self, who: usize, page: u64, access: Access) -> Result<u8, FaultError> {
        let found = self.alive[who].1.pages.get(&page);
        let (prot, shows) = found.ok_or(FaultError::Segv(SegvCode::MapErr))?;
        let allowed = match access {
            Access::Read => !prot.is_empty(),
            Access::Write => prot.contains(Prot::WRITE),
            Access::Execute => prot.contains(Prot::EXEC),
        };
        if !allowed {
            return Err(FaultError::Segv(SegvCode::AccErr));
        }
        match *shows {
            Shows::Own(byte) => Ok(byte),
            Shows::FileUntilWritten(pgoff) | Shows::File(pgoff) => {
                let byte = self
                    .file_bytes
                    .get(usize::try_from(pgoff).unwrap_or(usize::MAX));
                byte.copied().ok_or(FaultError::Bus)
            }
        }
    }

    fn touch(&mut self, who: usize) {
        let mut page = FIRST - 1 + self.rng.below(NR_PAGES + 2);
        if self.rng.below(4) > 0 {
            // Mostly what is there.
            let next = self.alive[who].1.pages.range(page..).next();
            page = next.map_or(page, |(&page, _)| page);
        }
        let offset = self.rng.below(PAGE);
        let access =
            [Access::Read, Access::Write, Access::Write, Access::Execute][self.rng.index(4)];
        let mode = if self.rng.below(4) == 0 && access != Access::Execute {
            Mode::Kernel
        } else {
            Mode::User
        };
        let expected = self.expect(who, page, access);
        let (process, model) = &mut self.alive[who];
        let got = process.access(va(page) + offset, access, mode);
        if matches!(got, Err(FaultError::OutOfMemory)) && expected.is_ok() {
            self.count("fault without memory");
            return;
        }
        let at = got.map(|(at, _)| at);
        assert_eq!(
            at.is_ok(),
            expected.is_ok(),
            "{access:?} {page}: {at:?}, not {expected:?}"
        );
        let (at, byte) = match (at, expected) {
            (Ok(at), Ok(byte)) => (at, byte),
            (got, expected) => {
                assert_eq!(got.map(|_| 0), expected);
                self.count("refused");
                return;
            }
        };
        // All bytes of a page are alike, as every write fills it.
        let start = at.align_down(PAGE);
        for offset in [0, offset, PAGE - 1] {
            assert_eq!(
                self.world.byte(start + offset),
                byte,
                "{access:?} {page} + {offset}"
            );
        }
        if access == Access::Write {
            let new = u8::try_from(self.rng.below(256)).unwrap_or(0);
            self.world.machine.fill_frame(start.pfn(), new);
            if let Some((_, shows)) = model.pages.get_mut(&page) {
                match *shows {
                    Shows::File(pgoff) => {
                        self.file_bytes[usize::try_from(pgoff).unwrap_or(0)] = new;
                    }
                    _ => *shows = Shows::Own(new),
                }
            }
        }
        self.count(&format!("{access:?}"));
    }

    fn step(&mut self) {
        let who = self.rng.index(self.alive.len());
        if self.rng.below(3) == 0 {
            self.world.pages.fail_at(self.rng.below(3));
        }
        match self.rng.below(20) {
            0..=2 => self.map(who),
            3 => self.unmap(who),
            4..=5 => self.protect(who),
            6 => self.fork(who),
            7 if self.rng.below(2) == 0 => self.exit(who),
            _ => self.touch(who),
        }
        self.world.pages.disarm();
        let processes: Vec<_> = self.alive.iter().map(|(process, _)| process).collect();
        self.world.audit(&processes, &[self.file]);
        for process in processes {
            process.mm.validate();
        }
    }
}

#[test]
fn random_processes_see_their_own_bytes() {
    seeded(0x0fa0_17ed, |rng| {
        let mut seen = BTreeMap::new();
        for _ in 0..4 {
            let world = World::new();
            let file = File::new(world, 10, FILE_PAGES);
            // The file is in memory, so that the audit counts it from the start.
            for pgoff in 0..FILE_PAGES {
                let page = file.page(pgoff).expect("memory");
                let last = world.machine.mem_map().page(page.pfn).put_and_test();
                assert!(!last);
            }
            let mut script = Script {
                world,
                rng: Rng::new(rng.next_u64()),
                file,
                file_bytes: (10..).take(6).collect(),
                alive: vec![(world.process(0), Model::default())],
                seen: BTreeMap::new(),
            };
            for _ in 0..600 {
                script.step();
            }
            for (what, n) in script.seen {
                *seen.entry(what).or_default() += n;
            }
            for (process, _) in script.alive {
                process.exit();
            }
            file.close();
            world.audit(&[], &[]);
        }
        println!("{seen:?}");
        for what in [
            "Read",
            "Write",
            "Execute",
            "refused",
            "protect",
            "fork",
            "exit",
            "fault without memory",
        ] {
            let times: u32 = seen.get(what).copied().unwrap_or(0);
            assert!(times > 5, "{what}: only {times} times");
        }
    });
}
