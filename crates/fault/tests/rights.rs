//! Rights that mprotect takes away, and gives back.

mod common;

use common::{ACCERR, File, MINOR, RW, World, va};
use kmm_sim::{Access, Mode};
use kmm_vma::Prot;

#[test]
fn what_mprotect_takes_is_gone_at_once_and_comes_back_with_a_fault() {
    let world = World::new();
    let file = File::new(world, 10, 4);
    let mut process = world.process(0);
    process.map(100..101, RW);
    process.map_file(200..201, RW, file, true);
    process.map_file(300..301, RW, file, false);
    process.map(400..401, RW);
    let pages = [100, 200, 300, 400];
    for page in pages {
        assert!(process.write(va(page) + 7, 5).is_ok());
    }
    let frames = pages.map(|page| process.frame(page));
    for prot in [
        Prot::empty(),
        Prot::READ,
        Prot::READ | Prot::EXEC,
        RW | Prot::EXEC,
    ] {
        for page in pages {
            process.protect(page..page + 1, prot);
            let read = process.read(va(page) + 7);
            let by_kernel = process.access(va(page), Access::Read, Mode::Kernel);
            if prot.is_empty() {
                assert_eq!(read, Err(ACCERR));
                assert_eq!(
                    by_kernel.map(|_| ()),
                    Err(ACCERR),
                    "out of the kernel's reach, too"
                );
            } else {
                assert_eq!(read, Ok(5), "{prot:?}");
                assert!(by_kernel.is_ok());
            }
            let write = process.touch(page, Access::Write);
            assert_eq!(write.is_ok(), prot.contains(Prot::WRITE), "{prot:?}");
            let exec = process.touch(page, Access::Execute);
            assert_eq!(exec.is_ok(), prot.contains(Prot::EXEC), "{prot:?}");
        }
        world.audit(&[&process], &[file]);
        assert_eq!(
            pages.map(|page| process.frame(page)),
            frames,
            "the same pages"
        );
        for page in pages {
            process.protect(page..page + 1, Prot::empty());
        }
    }
    assert_eq!((process.usage.anon_pages, process.usage.file_pages), (3, 1));
    process.protect(100..101, RW);
    assert_eq!(process.read(va(100) + 7), Ok(5));
    process.exit();
    file.close();
    world.audit(&[], &[]);
}

#[test]
fn a_right_that_comes_takes_no_other_away() {
    let world = World::new();
    let file = File::new(world, 10, 2);
    let mut process = world.process(0);
    process.map(100..101, RW);
    process.map_file(200..201, RW, file, true);
    for page in [100, 200] {
        assert!(process.write(va(page), 1).is_ok());
        process.protect(page..page + 1, RW | Prot::EXEC);
        assert_eq!(process.touch(page, Access::Execute), Ok(MINOR.into()));
        for access in [Access::Write, Access::Read, Access::Execute] {
            assert_eq!(process.touch(page, access), Ok(vec![]), "{access:?}");
        }
    }
    world.audit(&[&process], &[file]);
}
