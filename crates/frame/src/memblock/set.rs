//! A sorted set of disjoint spans of bytes, without an allocator.

use super::MemblockError;

/// Bytes `start..end`, and what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span<K> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: K,
}

/// At most `N` spans: sorted, disjoint, none empty, and no two of one kind touch (INV-1).
///
/// Where spans of two kinds are laid over each other, the greater kind shows, whatever the order of the calls.
#[derive(Clone, Debug)]
pub(super) struct SpanSet<K, const N: usize> {
    spans: [Span<K>; N],
    len: usize,
}

impl<K: Copy + Ord, const N: usize> SpanSet<K, N> {
    /// No span. `filler` fills the unused part of the array.
    pub(super) const fn new(filler: K) -> Self {
        let nothing = Span {
            start: 0,
            end: 0,
            kind: filler,
        };
        Self {
            spans: [nothing; N],
            len: 0,
        }
    }

    pub(super) fn as_slice(&self) -> &[Span<K>] {
        &self.spans[..self.len]
    }

    /// Lays `new` into the set.
    pub(super) fn insert(&mut self, new: Span<K>) -> Result<(), MemblockError> {
        if new.start >= new.end {
            return Ok(());
        }
        self.rewrite(|old, emit| laid_over(old, new, emit))
    }

    /// Takes `start..end` out of every span whose kind is `chosen`.
    pub(super) fn cut(
        &mut self,
        start: u64,
        end: u64,
        chosen: impl Fn(K) -> bool,
    ) -> Result<(), MemblockError> {
        if start >= end {
            return Ok(());
        }
        self.rewrite(|old, emit| {
            for &span in old {
                if !chosen(span.kind) {
                    emit(span);
                    continue;
                }
                emit(Span {
                    end: start.min(span.end),
                    ..span
                });
                emit(Span {
                    start: end.max(span.start),
                    ..span
                });
            }
        })
    }

    /// Replaces the spans by those that `produce` emits in order, or leaves all as it was when they are too many.
    ///
    /// Empty spans that it emits do not count.
    fn rewrite(
        &mut self,
        produce: impl Fn(&[Span<K>], &mut dyn FnMut(Span<K>)),
    ) -> Result<(), MemblockError> {
        let Some(&filler) = self.spans.first() else {
            return Err(MemblockError::TooManyRegions);
        };
        let mut next = Self {
            spans: [filler; N],
            len: 0,
        };
        let mut fits = true;
        produce(self.as_slice(), &mut |span| fits &= next.append(span));
        if fits {
            *self = next;
            Ok(())
        } else {
            Err(MemblockError::TooManyRegions)
        }
    }

    /// Appends a span that starts at or above the end of the last one; `false` when there is no room.
    fn append(&mut self, span: Span<K>) -> bool {
        if span.start >= span.end {
            return true;
        }
        if let Some(last) = self.spans[..self.len].last_mut() {
            if last.end == span.start && last.kind == span.kind {
                last.end = span.end;
                return true;
            }
        }
        match self.spans.get_mut(self.len) {
            Some(slot) => {
                *slot = span;
                self.len += 1;
                true
            }
            None => false,
        }
    }
}

/// Emits, in order, what `old` is with `new` laid over it: of each old span the parts before, within and after `new`, and
/// the parts of `new` between them. Most of these are empty.
fn laid_over<K: Copy + Ord>(old: &[Span<K>], new: Span<K>, emit: &mut dyn FnMut(Span<K>)) {
    let mut pending = new; // what of `new` has not been emitted
    for &span in old {
        emit(Span {
            end: span.end.min(new.start),
            ..span
        });
        emit(Span {
            end: pending.end.min(span.start),
            ..pending
        });
        let shared_end = span.end.min(new.end);
        emit(Span {
            start: span.start.max(new.start),
            end: shared_end,
            kind: span.kind.max(new.kind),
        });
        emit(Span {
            start: span.start.max(new.end),
            ..span
        });
        pending.start = pending.start.max(shared_end);
    }
    emit(pending);
}
