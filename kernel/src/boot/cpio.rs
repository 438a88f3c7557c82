//! Just enough of the cpio "newc" format to find a file before there is a heap.

/// A file of an archive.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its path, without a leading `./` or `/`.
    pub name: &'a str,
    /// Its contents.
    pub data: &'a [u8],
}

/// Walks an archive; ends at the trailer, or at the first header that does not parse.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    archive: &'a [u8],
    offset: usize,
}

const HEADER_LEN: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// The files of `archive`.
pub fn entries(archive: &[u8]) -> Entries<'_> {
    Entries { archive, offset: 0 }
}

/// The contents of the file `name` (no leading slash).
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    entries(archive)
        .find(|entry| entry.name == name)
        .map(|entry| entry.data)
}

fn field(header: &[u8], index: usize) -> Option<u32> {
    let text = header.get(6 + index * 8..14 + index * 8)?;
    u32::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let rest = self.archive.get(self.offset..)?;
        let header = rest.get(..HEADER_LEN)?;
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return None;
        }
        let size_bytes = field(header, 6)? as usize;
        let name_len = field(header, 11)? as usize;
        let name = rest.get(HEADER_LEN..HEADER_LEN.checked_add(name_len.checked_sub(1)?)?)?;
        let name = core::str::from_utf8(name).ok()?;
        let data_start = (HEADER_LEN + name_len).next_multiple_of(4);
        let data = rest.get(data_start..data_start.checked_add(size_bytes)?)?;
        if name == TRAILER {
            return None;
        }
        self.offset += (data_start + size_bytes).next_multiple_of(4);
        let name = name
            .strip_prefix("./")
            .unwrap_or(name)
            .trim_start_matches('/');
        Some(Entry { name, data })
    }
}
