//! From the first bytes of an ELF file to a plan of what to map where.
//!
//! Pure: bytes in, plan out, so that hostile files are tried on a laptop. Nothing here touches an address space; the
//! plan is checked so far that carrying it out can only fail for want of memory.
//!
//! Linux: `load_elf_binary`, fs/binfmt_elf.c.

use core::fmt;
use core::ops::Range;

use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, LittleEndian};

/// How much of a file's start the plan is made from: header and program headers have to lie within.
pub const HEAD_BYTES: usize = 4096;
/// Most segments that a program may load.
pub const SEGMENTS_MAX: usize = 16;
/// Where user addresses end. Linux: `TASK_SIZE`, 4-level paging.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Lowest address that may be mapped. Linux: `mmap_min_addr`.
pub const USER_START: u64 = 0x1_0000;

const PAGE_BYTES: u64 = 4096;
/// Where a position-independent program goes. Linux: `ELF_ET_DYN_BASE` without randomisation.
const DYN_BASE: u64 = 0x5555_5555_4000;

/// Why a file cannot be executed. All of them are ENOEXEC to a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ElfError {
    /// Not an ELF file, or its header is cut short or corrupt.
    NotElf,
    /// An ELF file for another machine, or not an executable.
    WrongKind,
    /// It wants a program interpreter: a dynamically linked program.
    NeedsInterpreter,
    /// The program headers are missing, too many, or not near the start of the file.
    BadProgramHeaders,
    /// A segment lies outside the file or the user's addresses, is misaligned, or overlaps another.
    BadSegment,
    /// Nothing is to be loaded, or more than [`SEGMENTS_MAX`] segments.
    SegmentCount,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotElf => "not an ELF file",
            Self::WrongKind => "not an x86-64 executable",
            Self::NeedsInterpreter => "needs a program interpreter",
            Self::BadProgramHeaders => "bad program headers",
            Self::BadSegment => "bad segment",
            Self::SegmentCount => "no segment or too many",
        })
    }
}

impl core::error::Error for ElfError {}

/// One `PT_LOAD` segment, biased.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Where its first byte goes.
    pub addr: u64,
    /// Where its first byte is in the file; the same place within a page as `addr`.
    pub offset_bytes: u64,
    /// Bytes that come from the file.
    pub file_bytes: u64,
    /// Bytes in memory; those after `file_bytes` are zero.
    pub memory_bytes: u64,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub exec: bool,
}

impl Segment {
    /// The pages that hold bytes of the file.
    #[must_use]
    pub const fn file_pages(&self) -> Range<u64> {
        page_floor(self.addr)..page_ceil(self.addr + self.file_bytes)
    }

    /// The pages after those, which are all zero.
    #[must_use]
    pub const fn zero_pages(&self) -> Range<u64> {
        let start = if self.file_bytes == 0 {
            page_floor(self.addr)
        } else {
            self.file_pages().end
        };
        let end = page_ceil(self.addr + self.memory_bytes);
        if end < start {
            start..start
        } else {
            start..end
        }
    }

    /// The bytes of the last file page that follow the segment's own and must read as zero.
    #[must_use]
    pub const fn tail(&self) -> Range<u64> {
        let start = self.addr + self.file_bytes;
        if self.file_bytes == 0 || self.memory_bytes == self.file_bytes {
            start..start
        } else {
            start..page_ceil(start)
        }
    }

    const fn pages(&self) -> Range<u64> {
        page_floor(self.addr)..page_ceil(self.addr + self.memory_bytes)
    }
}

/// What to map, and what to tell the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    segments: [Segment; SEGMENTS_MAX],
    nr_segments: usize,
    /// Where it starts.
    pub entry: u64,
    /// Where the program headers will be in memory, if a segment holds them.
    pub phdr_addr: Option<u64>,
    /// How many program headers.
    pub nr_phdrs: u16,
    /// What was added to every address.
    pub bias: u64,
    /// The stack must be executable.
    pub exec_stack: bool,
}

/// Bytes of one program header: `AT_PHENT`.
pub const PHDR_BYTES: usize = size_of::<ProgramHeader64<LittleEndian>>();

impl Plan {
    /// Plans a file of `file_size_bytes` that starts with `head`.
    ///
    /// `head` is the whole file, or at least its first [`HEAD_BYTES`].
    ///
    /// # Errors
    /// [`ElfError`] for whatever cannot be run.
    pub fn new(head: &[u8], file_size_bytes: u64) -> Result<Self, ElfError> {
        let header = FileHeader64::<Endianness>::parse(head).map_err(|_| ElfError::NotElf)?;
        let endian = header.endian().map_err(|_| ElfError::NotElf)?;
        let is_dyn = match header.e_type(endian) {
            elf::ET_EXEC => false,
            elf::ET_DYN => true,
            _ => return Err(ElfError::WrongKind),
        };
        if endian != Endianness::Little || header.e_machine(endian) != elf::EM_X86_64 {
            return Err(ElfError::WrongKind);
        }
        let nr_phdrs = header.e_phnum.get(endian);
        if usize::from(header.e_phentsize.get(endian)) != PHDR_BYTES || nr_phdrs == elf::PN_XNUM {
            return Err(ElfError::BadProgramHeaders);
        }
        let phdrs = header
            .program_headers(endian, head)
            .map_err(|_| ElfError::BadProgramHeaders)?;
        let mut plan = Self {
            segments: [Segment::default(); SEGMENTS_MAX],
            nr_segments: 0,
            entry: 0,
            phdr_addr: None,
            nr_phdrs,
            bias: if is_dyn { DYN_BASE } else { 0 },
            exec_stack: false,
        };
        for phdr in phdrs {
            match phdr.p_type(endian) {
                elf::PT_LOAD => plan.load(phdr, endian, file_size_bytes)?,
                elf::PT_INTERP => return Err(ElfError::NeedsInterpreter),
                elf::PT_GNU_STACK => plan.exec_stack = phdr.p_flags(endian).contains(elf::PF_X),
                _ => {}
            }
        }
        if plan.segments().is_empty() {
            return Err(ElfError::SegmentCount);
        }
        // A wild entry is the program's own trouble: it faults there.
        plan.entry = header.e_entry(endian).wrapping_add(plan.bias);
        plan.phdr_addr = plan.address_of(
            header.e_phoff(endian),
            u64::from(nr_phdrs) * PHDR_BYTES as u64,
        );
        Ok(plan)
    }

    /// The segments, by rising address.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.nr_segments]
    }

    /// The first page after all segments: where the heap starts.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments().last().map_or(0, |last| last.pages().end)
    }

    fn load(
        &mut self,
        phdr: &ProgramHeader64<Endianness>,
        endian: Endianness,
        file_size_bytes: u64,
    ) -> Result<(), ElfError> {
        let (file_bytes, memory_bytes) = (phdr.p_filesz(endian), phdr.p_memsz(endian));
        let offset_bytes = phdr.p_offset(endian);
        if memory_bytes == 0 && file_bytes == 0 {
            return Ok(());
        }
        let addr = phdr
            .p_vaddr(endian)
            .checked_add(self.bias)
            .ok_or(ElfError::BadSegment)?;
        let end = addr.checked_add(memory_bytes).ok_or(ElfError::BadSegment)?;
        let file_end = offset_bytes
            .checked_add(file_bytes)
            .ok_or(ElfError::BadSegment)?;
        let in_order = page_floor(addr) >= self.end();
        let fits = file_bytes <= memory_bytes && file_end <= file_size_bytes;
        let is_user = addr >= USER_START && end <= USER_END;
        if !in_order || !fits || !is_user || addr % PAGE_BYTES != offset_bytes % PAGE_BYTES {
            return Err(ElfError::BadSegment);
        }
        let flags = phdr.p_flags(endian);
        let slot = self
            .segments
            .get_mut(self.nr_segments)
            .ok_or(ElfError::SegmentCount)?;
        *slot = Segment {
            addr,
            offset_bytes,
            file_bytes,
            memory_bytes,
            read: flags.contains(elf::PF_R),
            write: flags.contains(elf::PF_W),
            exec: flags.contains(elf::PF_X),
        };
        self.nr_segments += 1;
        Ok(())
    }

    fn address_of(&self, offset_bytes: u64, size_bytes: u64) -> Option<u64> {
        let end = offset_bytes.checked_add(size_bytes)?;
        let holds =
            |s: &&Segment| s.offset_bytes <= offset_bytes && end <= s.offset_bytes + s.file_bytes;
        self.segments()
            .iter()
            .find(holds)
            .map(|s| s.addr + (offset_bytes - s.offset_bytes))
    }
}

const fn page_floor(addr: u64) -> u64 {
    addr & !(PAGE_BYTES - 1)
}

/// Addresses of a plan end at [`USER_END`], so this cannot wrap.
const fn page_ceil(addr: u64) -> u64 {
    page_floor(addr + PAGE_BYTES - 1)
}
