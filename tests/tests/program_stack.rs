//! The demo kernel's stack for a new program, read back as a program reads it.
#![allow(missing_docs, clippy::cast_possible_truncation, reason = "tests")]

extern crate alloc;

#[path = "../../kernel/src/process/stack_image.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the kernel's module, of which the tests use what they need"
)]
mod stack_image;

use stack_image::{ARGS_BYTES_MAX, Contents, StackImage, at};

const PAGE: u64 = 4096;

/// Follows the image as a program would.
fn word(image: &StackImage, addr: u64) -> u64 {
    let at = (addr - image.pointer) as usize;
    u64::from_le_bytes(image.bytes[at..at + 8].try_into().unwrap())
}

fn text(image: &StackImage, addr: u64) -> Vec<u8> {
    let at = (addr - image.pointer) as usize;
    image.bytes[at..]
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect()
}

#[test]
fn a_program_finds_its_arguments_on_the_stack() {
    const TOP: u64 = 0x7fff_ffff_f000;
    for nr_args in 0..5 {
        for nr_env in 0..4 {
            let args: Vec<Vec<u8>> = (0..nr_args)
                .map(|n| vec![b'a' + n; usize::from(n) * 3])
                .collect();
            let env: Vec<Vec<u8>> = (0..nr_env)
                .map(|n| format!("V{n}=x").into_bytes())
                .collect();
            let contents = Contents {
                args: &args,
                env: &env,
                exec_path: b"/bin/p",
                random: [7; 16],
                auxv: &[(at::PAGESZ, PAGE)],
            };
            let image = StackImage::new(TOP, &contents).unwrap();
            assert_eq!(image.pointer % 16, 0);
            assert_eq!(image.pointer + image.bytes.len() as u64, TOP);
            let mut at = image.pointer;
            let mut next = || {
                at += 8;
                word(&image, at - 8)
            };
            assert_eq!(next(), u64::from(nr_args));
            let found: Vec<_> = args.iter().map(|_| next()).collect();
            assert_eq!(
                found
                    .iter()
                    .map(|&addr| text(&image, addr))
                    .collect::<Vec<_>>(),
                args
            );
            assert_eq!(next(), 0);
            assert_eq!(
                image.args.start,
                found.first().copied().unwrap_or(image.args.start)
            );
            let found: Vec<_> = env.iter().map(|_| text(&image, next())).collect();
            assert_eq!((found, next()), (env.clone(), 0));
            let mut auxv = std::collections::BTreeMap::new();
            loop {
                match (next(), next()) {
                    (0, value) => break assert_eq!(value, 0),
                    (key, value) => assert_eq!(auxv.insert(key, value), None),
                }
            }
            assert_eq!(auxv[&at::PAGESZ], PAGE);
            assert_eq!(text(&image, auxv[&at::EXECFN]), b"/bin/p");
            assert_eq!(text(&image, auxv[&at::PLATFORM]), b"x86_64");
            let noise = (auxv[&at::RANDOM] - image.pointer) as usize;
            assert_eq!(image.bytes[noise..noise + 16], [7; 16]);
        }
    }
}

#[test]
fn the_longest_arguments_fit_below_the_top() {
    const TOP: u64 = 0x7fff_ffff_f000;
    let args = [vec![b'x'; ARGS_BYTES_MAX]];
    let contents = Contents {
        args: &args,
        env: &[],
        exec_path: b"p",
        random: [0; 16],
        auxv: &[],
    };
    let image = StackImage::new(TOP, &contents).unwrap();
    assert_eq!(image.pointer + image.bytes.len() as u64, TOP);
    assert_eq!(text(&image, word(&image, image.pointer + 8)), args[0]);
    assert_eq!(image.args.end - image.args.start, ARGS_BYTES_MAX as u64 + 1);
}
