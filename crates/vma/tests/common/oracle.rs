//! The slow and obvious model: what each page of the address space shows, and where areas begin.
//!
//! It knows no trees, no areas and no merging by cases: an area begins at a page that is marked so, and a mark is only
//! set or looked at again where an operation has been.

use core::ops::Range;
use std::collections::BTreeMap;

use kmm_vma::{MapFlags, Mm, MmapReq, RemapFlags, RemapReq, VmFlags, VmaError};

use super::{BASE, END, GAP, MIN, PAGE};

const READ: u64 = 1;
const WRITE: u64 = 2;
const EXEC: u64 = 4;
const SHARED: u64 = 8;
const MAY: u64 = 0x70;
const MAYWRITE: u64 = 0x20;
const MAYSHARE: u64 = 0x80;
const GROWSDOWN: u64 = 0x100;
const LOCKED: u64 = 0x2000;
const NOT_MERGED: u64 = 0x400 | 0x4000 | 0x4_0000;

/// One mapped page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub flags: u64,
    pub file: Option<u32>,
    /// Page of the file, or of anonymous memory.
    pub index: u64,
    /// An area begins here.
    pub begins: bool,
}

/// Limits in pages.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub total: u64,
    pub data: u64,
    pub stack: u64,
    pub locked: u64,
    pub areas: usize,
}

#[derive(Clone, Debug)]
pub struct Oracle {
    pub pages: BTreeMap<u64, Cell>,
    pub most: Most,
    pub start_brk: u64,
    pub brk: u64,
}

type Pages = Range<u64>;

fn up(bytes: u64) -> Option<u64> {
    Some(bytes.checked_add(PAGE - 1)? / PAGE)
}

impl Oracle {
    pub fn new(most: Most) -> Self {
        Self {
            pages: BTreeMap::new(),
            most,
            start_brk: 0,
            brk: 0,
        }
    }

    /// Compares every page, every border and every count.
    pub fn assert_same(&self, mm: &Mm<u32>, after: &str) {
        mm.validate();
        let mut seen = BTreeMap::new();
        for (range, vma) in mm.iter() {
            let first = range.start.as_u64() / PAGE;
            for page in first..range.end.as_u64() / PAGE {
                let cell = Cell {
                    flags: vma.flags.bits(),
                    file: vma.file,
                    index: vma.pgoff + (page - first),
                    begins: page == first,
                };
                assert!(seen.insert(page, cell).is_none(), "two areas at {page}");
            }
        }
        for page in 0..END {
            let (got, expected) = (seen.get(&page), self.pages.get(&page));
            assert_eq!(got, expected, "page {page} after {after}");
        }
        assert_eq!(seen.len(), self.pages.len(), "pages beyond the end");
        let count = |f: &dyn Fn(u64) -> bool| {
            self.pages.values().filter(|cell| f(cell.flags)).count() as u64
        };
        let counts = mm.counts();
        assert_eq!(counts.total_pages, count(&|_| true));
        assert_eq!(counts.data_pages, count(&is_data));
        assert_eq!(counts.locked_pages, count(&|flags| flags & LOCKED != 0));
        assert_eq!(counts.stack_pages, count(&|flags| flags & GROWSDOWN != 0));
        assert_eq!(
            counts.exec_pages,
            count(&|flags| flags & (EXEC | WRITE | GROWSDOWN) == EXEC)
        );
        assert_eq!(mm.total_vm_pages(), counts.total_pages);
        assert_eq!(mm.locked_vm_pages(), counts.locked_pages);
        assert_eq!(mm.map_count(), self.areas());
        assert_eq!(mm.start_brk().as_u64(), self.start_brk);
        assert_eq!(mm.current_brk().as_u64(), self.brk);
        for page in 0..END + 2 {
            let found = mm.find(super::va(page)).map(|(r, _)| r);
            let first = self.pages.range(page..).next().map(|(at, _)| *at);
            let area = first.map(|at| self.area(at));
            assert_eq!(
                found.map(|r| r.start.as_u64() / PAGE..r.end.as_u64() / PAGE),
                area
            );
            let holder = mm.lookup(super::va(page) + 17).is_some();
            assert_eq!(holder, self.pages.contains_key(&page));
            let hit = mm.find_intersection(super::va(page)..super::va(page + 3));
            let near = self.pages.range(page..page + 3).next();
            assert_eq!(hit.is_some(), near.is_some());
        }
    }

    pub fn areas(&self) -> usize {
        self.pages.values().filter(|cell| cell.begins).count()
    }

    /// The area that holds `page`.
    pub fn area(&self, page: u64) -> Pages {
        let mut first = page;
        while !self.pages[&first].begins {
            first -= 1;
        }
        let mut end = page + 1;
        while self.pages.get(&end).is_some_and(|cell| !cell.begins) {
            end += 1;
        }
        first..end
    }

    fn any_in(&self, range: Pages) -> bool {
        self.pages.range(range).next().is_some()
    }

    fn nr_in(&self, range: &Pages, f: impl Fn(u64) -> bool) -> u64 {
        let cells = self.pages.range(range.clone());
        cells.filter(|(_, cell)| f(cell.flags)).count() as u64
    }

    /// Free pages, with no stack close above.
    pub fn is_room(&self, range: Pages) -> bool {
        if self.any_in(range.clone()) {
            return false;
        }
        match self.pages.range(range.end..).next() {
            Some((next, cell)) if cell.flags & GROWSDOWN != 0 => {
                next.saturating_sub(GAP) >= range.end
            }
            _ => true,
        }
    }

    /// Every place, tried in order.
    pub fn room(&self, hint: u64, nr: u64) -> Option<u64> {
        let mut hint = hint / PAGE;
        if hint > 0 && hint < MIN {
            hint = MIN;
        }
        let fits_hint = hint > 0 && hint.checked_add(nr).is_some_and(|end| end <= END);
        if fits_hint && self.is_room(hint..hint + nr) {
            return Some(hint);
        }
        let down = (MIN..BASE).rev();
        let mut down = down.filter(|&at| at + nr <= BASE && self.is_room(at..at + nr));
        let mut up = (MIN..END).filter(|&at| at + nr <= END && self.is_room(at..at + nr));
        down.next().or_else(|| up.next())
    }

    fn alike(&self, page: u64) -> bool {
        let (Some(below), Some(here)) = (
            page.checked_sub(1).and_then(|below| self.pages.get(&below)),
            self.pages.get(&page),
        ) else {
            return false;
        };
        below.flags == here.flags
            && below.flags & NOT_MERGED == 0
            && below.file == here.file
            && below.index + 1 == here.index
    }

    /// Sets the marks of `range` and its end anew, where something has changed.
    fn mark(&mut self, range: &Pages) {
        for page in range.start..=range.end {
            let alike = self.alike(page);
            let below = page
                .checked_sub(1)
                .and_then(|b| self.pages.get(&b).copied());
            if let Some(cell) = self.pages.get_mut(&page) {
                let apart = below.is_none_or(|below| below.flags != cell.flags);
                cell.begins = apart || (cell.begins && !alike);
            }
        }
    }

    fn erase(&mut self, range: &Pages) {
        for page in range.clone() {
            self.pages.remove(&page);
        }
        if !range.is_empty() {
            if let Some(cell) = self.pages.get_mut(&range.end) {
                cell.begins = true;
            }
        }
    }

    fn put(&mut self, range: &Pages, flags: u64, file: Option<u32>, index: u64) {
        for page in range.clone() {
            let cell = Cell {
                flags,
                file,
                index: index + (page - range.start),
                begins: page == range.start,
            };
            assert!(self.pages.insert(page, cell).is_none());
        }
        for page in [range.start, range.end] {
            let alike = self.alike(page);
            if let Some(cell) = self.pages.get_mut(&page) {
                cell.begins &= !alike;
            }
        }
    }

    fn limits(&self, flags: u64, more: u64, gone: &[&Pages]) -> Result<(), VmaError> {
        let gone_of = |f: &dyn Fn(u64) -> bool| -> u64 {
            gone.iter().map(|range| self.nr_in(range, f)).sum()
        };
        let have = |f: &dyn Fn(u64) -> bool| self.nr_in(&(0..END), f) - gone_of(f) + more;
        let is_locked = |flags| flags & LOCKED != 0;
        if have(&|_| true) > self.most.total || (is_data(flags) && have(&is_data) > self.most.data)
        {
            return Err(VmaError::NoMemory);
        }
        if is_locked(flags) && have(&is_locked) > self.most.locked {
            return Err(VmaError::LockLimit);
        }
        Ok(())
    }

    /// A hole in the middle of an area makes one area more.
    fn hole(&self, range: &Pages) -> Result<(), VmaError> {
        if self.pages.contains_key(&range.start) {
            let area = self.area(range.start);
            let inside = area.start < range.start && range.end < area.end;
            if inside && self.areas() >= self.most.areas {
                return Err(VmaError::NoMemory);
            }
        }
        Ok(())
    }

    /// The range, and whether anything was there.
    pub fn mmap(&mut self, req: &MmapReq<u32>) -> Result<(Pages, bool), VmaError> {
        if req.len_bytes == 0 {
            return Err(VmaError::Invalid);
        }
        let nr = up(req.len_bytes).ok_or(VmaError::NoMemory)?;
        let index = req.file.map_or(0, |(_, index)| index);
        index.checked_add(nr).ok_or(VmaError::Overflow)?;
        if self.areas() > self.most.areas {
            return Err(VmaError::NoMemory);
        }
        let fixed = req.flags.bits() & 0x10_0010 != 0;
        let start = if fixed {
            let addr = req.addr.as_u64();
            match addr.checked_add(nr * PAGE) {
                Some(end) if end <= END * PAGE => {}
                _ => return Err(VmaError::NoMemory),
            }
            if addr % PAGE != 0 {
                return Err(VmaError::Invalid);
            }
            if addr < MIN * PAGE {
                return Err(VmaError::NotPermitted);
            }
            let at = addr / PAGE;
            if req.flags.contains(MapFlags::FIXED_NOREPLACE) && self.any_in(at..at + nr) {
                return Err(VmaError::Exists);
            }
            at
        } else {
            self.room(req.addr.as_u64(), nr).ok_or(VmaError::NoMemory)?
        };
        let range = start..start + nr;
        let flags = area_flags(req)?;
        if req.file.is_some() && index + nr >= 1 << 51 {
            return Err(VmaError::Overflow);
        }
        self.limits(flags, nr, &[&range])?;
        self.hole(&range)?;
        let replaced = self.any_in(range.clone());
        self.erase(&range);
        let index = if req.file.is_some() { index } else { start };
        self.put(&range, flags, req.file.map(|(file, _)| file), index);
        Ok((range, replaced))
    }

    fn range(addr: u64, len_bytes: u64) -> Option<Pages> {
        let end = up(addr.checked_add(len_bytes)?)?;
        (addr % PAGE == 0 && end <= END).then_some(addr / PAGE..end)
    }

    pub fn munmap(&mut self, addr: u64, len_bytes: u64) -> Result<Pages, VmaError> {
        let range = Self::range(addr, len_bytes).filter(|range| !range.is_empty());
        let range = range.ok_or(VmaError::Invalid)?;
        self.hole(&range)?;
        self.erase(&range);
        Ok(range)
    }

    /// Whether anything changed.
    pub fn mprotect(&mut self, addr: u64, len_bytes: u64, prot: u64) -> Result<bool, VmaError> {
        if addr % PAGE != 0 {
            return Err(VmaError::Invalid);
        }
        if len_bytes == 0 {
            return Ok(false);
        }
        let range = Self::range(addr, len_bytes).ok_or(VmaError::NoMemory)?;
        for page in range.clone() {
            let cell = self.pages.get(&page).ok_or(VmaError::NoMemory)?;
            if prot << 4 & !cell.flags != 0 {
                return Err(VmaError::Access);
            }
        }
        self.reflag(&range, |flags| flags & !7 | prot)
    }

    pub fn reflag(&mut self, range: &Pages, f: impl Fn(u64) -> u64) -> Result<bool, VmaError> {
        let mut after = self.clone();
        let mut changed = false;
        for page in range.clone() {
            let cell = after.pages.get_mut(&page).ok_or(VmaError::NoMemory)?;
            changed |= f(cell.flags) != cell.flags;
            cell.flags = f(cell.flags);
        }
        after.mark(range);
        let more_data = range
            .clone()
            .filter(|page| is_data(after.pages[page].flags) && !is_data(self.pages[page].flags));
        let more_data = more_data.count() as u64;
        let data = self.nr_in(&(0..END), is_data);
        if more_data > 0 && data + more_data > self.most.data {
            return Err(VmaError::NoMemory);
        }
        if after.areas() > self.areas() && after.areas() > self.most.areas {
            return Err(VmaError::NoMemory);
        }
        *self = after;
        Ok(changed)
    }

    /// Where it is now, where pages come from, and what goes.
    pub fn mremap(&mut self, req: &RemapReq) -> Result<Moved, VmaError> {
        let fixed = req.flags.contains(RemapFlags::FIXED);
        let may_move = req.flags.contains(RemapFlags::MAYMOVE);
        let addr = req.old_addr.as_u64();
        if (fixed && !may_move) || addr % PAGE != 0 {
            return Err(VmaError::Invalid);
        }
        let old_nr = up(req.old_len_bytes).ok_or(VmaError::Invalid)?;
        let new_nr = up(req.new_len_bytes).filter(|&nr| nr > 0);
        let new_nr = new_nr.ok_or(VmaError::Invalid)?;
        let start = addr / PAGE;
        let cell = *self.pages.get(&start).ok_or(VmaError::NotMapped)?;
        let old_end = start + old_nr;
        if old_end >= 1 << 52 {
            return Err(VmaError::Invalid);
        }
        let mut tail = start + new_nr.min(old_nr)..old_end;
        let mut to = None;
        if fixed {
            let target = Self::range(req.new_addr.as_u64(), new_nr * PAGE);
            let target = target.ok_or(VmaError::Invalid)?;
            if start < target.end && target.start < old_end {
                return Err(VmaError::Invalid);
            }
            if self.areas() + 2 + 3 >= self.most.areas {
                return Err(VmaError::NoMemory);
            }
            if !tail.is_empty() && old_end > END {
                return Err(VmaError::Invalid);
            }
            if target.contains(&start) {
                return Err(VmaError::NotMapped); // what is there goes first
            }
            to = Some(target);
        } else if old_nr >= new_nr {
            if !tail.is_empty() {
                if old_end > END {
                    return Err(VmaError::Invalid);
                }
                self.hole(&tail)?;
                self.erase(&tail);
            }
            return Ok(Moved {
                range: start..start + new_nr,
                from: None,
                dropped: vec![tail],
            });
        } else {
            tail = old_end..old_end;
        }
        let kept = old_nr.min(new_nr);
        if kept == 0 && cell.flags & SHARED == 0 {
            return Err(VmaError::Invalid);
        }
        let area = self.area(start);
        if start + kept > area.end {
            return Err(VmaError::NotMapped);
        }
        if new_nr > kept {
            if cell.flags & (0x4_0000 | 0x400) != 0 {
                return Err(VmaError::NotMapped);
            }
            let target = to.clone().unwrap_or(0..0);
            self.limits(cell.flags, new_nr - kept, &[&target, &tail])?;
        }
        let Some(to) = to else {
            let more = old_end..start + new_nr;
            if kept > 0 && old_end == area.end && more.end <= END && !self.any_in(more.clone()) {
                self.put(&more, cell.flags, cell.file, cell.index + kept);
                return Ok(Moved {
                    range: start..more.end,
                    from: None,
                    dropped: vec![],
                });
            }
            if !may_move {
                return Err(VmaError::NoMemory);
            }
            let at = self.room(0, new_nr).ok_or(VmaError::NoMemory)?;
            if self.areas() + 3 >= self.most.areas {
                return Err(VmaError::NoMemory);
            }
            return Ok(self.relocate(start..start + kept, at..at + new_nr, cell, vec![]));
        };
        if to.start < MIN {
            return Err(VmaError::NotPermitted);
        }
        self.erase(&to);
        self.erase(&tail);
        Ok(self.relocate(start..start + kept, to.clone(), cell, vec![to, tail]))
    }

    fn relocate(&mut self, from: Pages, to: Pages, cell: Cell, dropped: Vec<Pages>) -> Moved {
        self.erase(&from);
        self.put(&to, cell.flags, cell.file, cell.index);
        Moved {
            range: to,
            from: (!from.is_empty()).then_some(from),
            dropped,
        }
    }

    /// What goes, if the break moved down by pages.
    pub fn brk(&mut self, new: u64) -> Option<Pages> {
        let (old_end, new_end) = (up(self.brk)?, up(new)?);
        if new < self.start_brk || new - self.start_brk > self.most.data * PAGE {
            return None;
        }
        if new_end < old_end {
            let gone = new_end..old_end;
            if !self.any_in(gone.clone()) || self.hole(&gone).is_err() {
                return None;
            }
            self.erase(&gone);
            self.brk = new;
            return Some(gone);
        }
        let more = old_end..new_end;
        if !more.is_empty() {
            let flags = READ | WRITE | MAY;
            if more.start < MIN
                || more.end > END
                || !self.is_room(more.start..more.end + 1)
                || self.limits(flags, more.end - more.start, &[]).is_err()
                || self.areas() > self.most.areas
            {
                return None;
            }
            self.put(&more, flags, None, more.start);
        }
        self.brk = new;
        None
    }

    pub fn expand_stack(&mut self, addr: u64) -> Result<(), VmaError> {
        let page = addr / PAGE;
        let (&next, &cell) = self.pages.range(page..).next().ok_or(VmaError::NotMapped)?;
        if next == page {
            return Ok(());
        }
        if cell.flags & GROWSDOWN == 0 {
            return Err(VmaError::NotMapped);
        }
        if page < MIN {
            return Err(VmaError::NotPermitted);
        }
        if let Some((&below, other)) = self.pages.range(..page).next_back() {
            let enemy = other.flags & GROWSDOWN == 0 && other.flags & 7 != 0;
            if enemy && page < below + 1 + GAP {
                return Err(VmaError::NoMemory);
            }
        }
        let more = next - page;
        if cell.index < more
            || self.area(next).end - page > self.most.stack
            || self.limits(cell.flags, more, &[]).is_err()
        {
            return Err(VmaError::NoMemory);
        }
        if let Some(top) = self.pages.get_mut(&next) {
            top.begins = false;
        }
        for at in page..next {
            let cell = Cell {
                index: cell.index - (next - at),
                begins: at == page,
                ..cell
            };
            self.pages.insert(at, cell);
        }
        Ok(())
    }

    /// What a child has.
    pub fn fork(&self) -> Self {
        let mut child = self.clone();
        child.pages.retain(|_, cell| cell.flags & 0x2_0000 == 0);
        for cell in child.pages.values_mut() {
            cell.flags &= !LOCKED;
        }
        child
    }
}

/// What `mremap` did.
#[derive(Debug)]
pub struct Moved {
    pub range: Pages,
    pub from: Option<Pages>,
    pub dropped: Vec<Pages>,
}

fn is_data(flags: u64) -> bool {
    flags & WRITE != 0 && flags & SHARED == 0 && flags & GROWSDOWN == 0
}

/// The flags of the new area, or why the file does not allow them.
fn area_flags(req: &MmapReq<u32>) -> Result<u64, VmaError> {
    let prot = u64::from(req.prot.bits());
    let mut flags = prot;
    for (map, vm) in [(0x100, GROWSDOWN), (0x2000, LOCKED), (0x4000, 0x20_0000)] {
        if req.flags.bits() & map != 0 {
            flags |= vm;
        }
    }
    let may = if req.file.is_some() && !req.flags.contains(MapFlags::ANONYMOUS) {
        req.may.bits()
    } else {
        MAY
    };
    match req.flags.bits() & 0xf {
        3 if req.file.is_none() => return Err(VmaError::Invalid),
        1 | 3 => {
            if prot & WRITE != 0 && may & MAYWRITE == 0 {
                return Err(VmaError::Access);
            }
            flags |= may | SHARED | MAYSHARE;
        }
        2 => flags |= may | MAYWRITE,
        _ => return Err(VmaError::Invalid),
    }
    if may & VmFlags::MAYREAD.bits() == 0 {
        return Err(VmaError::Access);
    }
    if prot & EXEC != 0 && may & VmFlags::MAYEXEC.bits() == 0 {
        return Err(VmaError::NotPermitted);
    }
    if flags & GROWSDOWN != 0 && (req.file.is_some() || flags & SHARED != 0) {
        return Err(VmaError::Invalid);
    }
    if flags & SHARED != 0 && req.file.is_none() {
        return Err(VmaError::NotSupported);
    }
    Ok(flags)
}
