//! Writes a cpio archive in the "newc" format, which is what an initramfs is.
//!
//! Every number is eight hexadecimal digits; names and contents are padded to four bytes; an entry called `TRAILER!!!` ends the
//! archive. Times and owners are zero, so the same files give the same bytes.

const DIR: u32 = 0o04_0000;
const FILE: u32 = 0o10_0000;
const LINK: u32 = 0o12_0000;

/// An archive being written.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            entries: 0,
        }
    }

    /// A folder; its parents have to be there already.
    pub(crate) fn dir(&mut self, path: &str) {
        self.entry(path, DIR | 0o755, 2, &[]);
    }

    /// A file with its contents and permission bits.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, FILE | mode, 1, contents);
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.entry(path, LINK | 0o777, 1, to.as_bytes());
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.header("TRAILER!!!", 0, 1, 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, contents: &[u8]) {
        self.entries += 1;
        self.header(path, mode, links, contents.len());
        self.bytes.extend(contents);
        self.pad();
    }

    fn header(&mut self, path: &str, mode: u32, links: u32, size_bytes: usize) {
        let name_bytes = path.len() + 1;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let numbers = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            links as usize,
            0,
            size_bytes,
            0,
            0,
            0,
            0,
            name_bytes,
            0,
        ];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn the_bytes_of_a_small_archive() {
        let mut archive = Archive::new();
        archive.dir("etc");
        archive.file("etc/motd", 0o644, b"hello");
        archive.link("etc/m", "motd");
        let bytes = archive.finish();
        let text: String = bytes
            .iter()
            .map(|&b| if b == 0 { '.' } else { char::from(b) })
            .collect();
        let expected = concat!(
            "07070100000001000041ed000000000000000000000002000000000000000000000000000000000000000000000000",
            "0000000400000000etc...",
            "07070100000002000081a4000000000000000000000001000000000000000500000000000000000000000000000000",
            "0000000900000000etc/motd..hello...",
            "070701000000030000a1ff000000000000000000000001000000000000000400000000000000000000000000000000",
            "0000000600000000etc/m.motd",
            "07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!....",
        );
        assert_eq!(text, expected);
        assert_eq!(bytes.len() % 4, 0);
    }
}
