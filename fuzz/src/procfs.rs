//! Lines of `/proc/PID/maps` say what they were given, in fields that can be read back.

use kmm_frame::VirtAddr;
use kmm_procfs::maps::{MapLine, Name, Perms};

use crate::Tape;

/// Runs an input.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    while !tape.is_empty() {
        let name: String = (0..tape.below(60))
            .map(|_| char::from(tape.byte()))
            .collect();
        let bits = tape.byte();
        let line = MapLine {
            start: VirtAddr::new(tape.word()),
            end: VirtAddr::new(tape.word()),
            perms: Perms {
                read: bits & 1 != 0,
                write: bits & 2 != 0,
                exec: bits & 4 != 0,
                shared: bits & 8 != 0,
            },
            offset_bytes: tape.word(),
            dev: (tape.word() as u32, tape.word() as u32),
            inode: tape.word(),
            name: match tape.below(4) {
                0 => Name::Anonymous,
                1 => Name::File(&name),
                2 => Name::Deleted(&name),
                _ => Name::Special("[heap]"),
            },
        };
        let text = line.to_string();
        let body = text.strip_suffix('\n').expect("ends its line");
        assert!(!body.contains('\n'), "a name breaks the line: {body:?}");
        let mut fields = body.split(' ');
        let (start, end) = fields
            .next()
            .and_then(|range| range.split_once('-'))
            .expect("a range");
        assert_eq!(u64::from_str_radix(start, 16), Ok(line.start.as_u64()));
        assert_eq!(u64::from_str_radix(end, 16), Ok(line.end.as_u64()));
        let perms = fields.next().expect("rights");
        assert_eq!(perms.len(), 4);
        assert_eq!(perms.contains('w'), line.perms.write);
        let offset = fields.next().expect("an offset");
        assert_eq!(u64::from_str_radix(offset, 16), Ok(line.offset_bytes));
        let (major, minor) = fields
            .next()
            .and_then(|dev| dev.split_once(':'))
            .expect("a device");
        assert_eq!(u32::from_str_radix(major, 16), Ok(line.dev.0));
        assert_eq!(u32::from_str_radix(minor, 16), Ok(line.dev.1));
        assert_eq!(
            fields.next().and_then(|inode| inode.parse().ok()),
            Some(line.inode)
        );
    }
}
