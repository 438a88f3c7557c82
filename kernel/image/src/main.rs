//! `kmm-image KERNEL INITRAMFS OUTPUT`: writes a disk image that UEFI firmware starts.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initramfs, output] = args.as_slice() else {
        eprintln!("usage: kmm-image KERNEL INITRAMFS OUTPUT");
        return ExitCode::from(2);
    };
    let mut image = bootloader::UefiBoot::new(Path::new(kernel));
    image.set_ramdisk(Path::new(initramfs));
    match image.create_disk_image(Path::new(output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kmm-image: cannot write {output}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
