//! All mutants of a file in one file: each function whose body has mutants becomes a `match` over its original body and one copy
//! of it per mutant; which of them runs is decided when it runs (`switch.rs`).
//!
//! So a crate is built once rather than once per mutant, and a mutant costs a run of the tests that reach it. Each copy is the very
//! text that `cargo mutants` would compile. Source: DeMillo et al. call this a mutant schema (Untch, Offutt, Harrold 1993).

use super::list::{Mutant, Place, Span};

/// The number by which a running test knows a mutant, from 1; 0 is the original.
pub(super) type Id = u32;

/// One file with all that could be woven into it.
#[derive(Debug)]
pub(super) struct Woven {
    pub(super) text: String,
    /// In which lines of it each mutant stands, first and last.
    pub(super) lines: Vec<(Id, usize, usize)>,
    /// Those that share a function; what a run tells of a function is told of its first mutant.
    pub(super) groups: Vec<Vec<Id>>,
}

/// Which mutants of a file can be woven: not those outside functions, nor of functions in functions that have some too, nor of
/// functions whose type depends on their text.
pub(super) fn can_weave(mutants: &[(Id, &Mutant)]) -> Vec<Id> {
    let fits = |mutant: &Mutant| {
        let Some(function) = &mutant.function else {
            return false;
        };
        let outer = |other: &Mutant| {
            other.function.as_ref().is_some_and(|other| {
                other.span != function.span
                    && other.span.start <= function.span.start
                    && function.span.end <= other.span.end
            })
        };
        let hidden = function.return_type.matches("impl ").count();
        (hidden == 0 || (hidden == 1 && is_iterator(&function.return_type)))
            && !mutants.iter().any(|(_, other)| outer(other))
    };
    mutants
        .iter()
        .filter(|(_, mutant)| fits(mutant))
        .map(|(id, _)| *id)
        .collect()
}

fn is_iterator(return_type: &str) -> bool {
    return_type.starts_with("-> impl Iterator")
}

/// Weaves `mutants` into `source`, leaving out those that `without` names, which do not compile.
pub(super) fn weave(source: &str, mutants: &[(Id, &Mutant)], without: &[Id]) -> Woven {
    let places = Places::new(source);
    let mut functions: Vec<(Span, Vec<(Id, &Mutant)>)> = Vec::new();
    for (id, mutant) in mutants {
        let Some(function) = &mutant.function else {
            continue;
        };
        match functions
            .iter_mut()
            .find(|(span, _)| *span == function.span)
        {
            Some((_, group)) => group.push((*id, mutant)),
            None => functions.push((function.span, vec![(*id, mutant)])),
        }
    }
    functions.sort();
    let mut out = Output::default();
    let mut groups = Vec::new();
    let mut at = 0;
    for (span, group) in &functions {
        let function = places.range(*span);
        let body = body_start(source, function.start)..function.end;
        let is_iterator = group.iter().any(|(_, mutant)| {
            let function = mutant.function.as_ref();
            function.is_some_and(|function| is_iterator(&function.return_type))
        });
        let original = &source[body.clone()];
        let is_plain = !(is_iterator && original.contains("return "));
        out.push(&without_inline(&source[at..body.start]));
        at = body.end;
        let arms: Vec<_> = group
            .iter()
            .filter(|(id, _)| is_plain && !without.contains(id))
            .collect();
        let (base, nr) = (group[0].0, group.len());
        groups.push(group.iter().map(|(id, _)| *id).collect());
        out.push(&format!("{{ match ::kmm_mutant::which({base}, {nr}) {{\n"));
        for (nr, (id, mutant)) in arms.iter().enumerate() {
            let changed = places.range(mutant.span);
            let body = format!(
                "{}{}{}",
                &source[body.start..changed.start],
                mutant.replacement,
                &source[changed.end..body.end]
            );
            let first = out.line;
            out.push(&format!("{id} => {}\n", either(is_iterator, nr, &body)));
            out.lines.push((*id, first, out.line - 1));
        }
        let last = if is_iterator && !arms.is_empty() {
            either_last(arms.len(), original)
        } else {
            original.to_owned()
        };
        out.push(&format!("_ => {last}\n}} }}"));
    }
    out.push(&without_inline(&source[at..]));
    Woven {
        text: out.text,
        lines: out.lines,
        groups,
    }
}

/// The arms of a function whose type is hidden need one type: the first is `Left(a)`, the second `Right(Left(b))`.
fn either(is_hidden: bool, nr: usize, body: &str) -> String {
    if !is_hidden {
        return body.to_owned();
    }
    let (open, close) = ("::kmm_mutant::Either::Right(".repeat(nr), ")".repeat(nr));
    format!("{{ {open}::kmm_mutant::Either::Left({body}){close} }}")
}

fn either_last(nr: usize, body: &str) -> String {
    let (open, close) = ("::kmm_mutant::Either::Right(".repeat(nr), ")".repeat(nr));
    format!("{{ {open}{body}{close} }}")
}

/// Copies of copies would be too many.
fn without_inline(text: &str) -> String {
    text.replace("#[inline(always)]", "")
        .replace("#[inline]", "")
}

#[derive(Debug)]
struct Output {
    text: String,
    line: usize,
    lines: Vec<(Id, usize, usize)>,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            text: String::new(),
            line: 1,
            lines: Vec::new(),
        }
    }
}

impl Output {
    fn push(&mut self, text: &str) {
        self.text += text;
        self.line += text.matches('\n').count();
    }
}

/// Where the lines of a file begin.
struct Places<'a> {
    source: &'a str,
    starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(source: &'a str) -> Self {
        let ends = source.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            starts: core::iter::once(0).chain(ends).collect(),
        }
    }

    fn byte(&self, place: Place) -> usize {
        let start = self.starts[place.line - 1];
        let mut chars = self.source[start..].char_indices();
        start + chars.nth(place.column - 1).map_or(0, |(at, _)| at)
    }

    fn range(&self, span: Span) -> core::ops::Range<usize> {
        self.byte(span.start)..self.byte(span.end)
    }
}

/// Where the body of the function that begins at `start` begins: the first brace outside parentheses and brackets.
fn body_start(source: &str, start: usize) -> usize {
    let bytes = source.as_bytes();
    let (mut at, mut depth) = (start, 0usize);
    loop {
        match bytes[at] {
            b'/' if bytes[at + 1] == b'/' => {
                at += source[at..].find('\n').unwrap_or(0);
            }
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::Function;
    use super::*;

    const SOURCE: &str = "#[inline]\nfn f(a: [u8; 2]) -> usize { // {\n    a.len() + 1\n}\n";

    fn mutant(span: (usize, usize, usize), replacement: &str) -> Mutant {
        let (line, from, to) = span;
        let place = |line, column| Place { line, column };
        Mutant {
            package: String::new(),
            file: String::new(),
            span: Span {
                start: place(line, from),
                end: place(line, to),
            },
            replacement: replacement.to_owned(),
            function: Some(Function {
                return_type: "-> usize".to_owned(),
                span: Span {
                    start: place(2, 1),
                    end: place(4, 2),
                },
            }),
            name: String::new(),
        }
    }

    #[test]
    fn each_mutant_is_an_arm() {
        let (minus, zero) = (mutant((3, 13, 14), "-"), mutant((3, 5, 16), "0"));
        let mutants = [(7, &minus), (8, &zero)];
        assert_eq!(can_weave(&mutants), [7, 8]);
        let woven = weave(SOURCE, &mutants, &[]);
        assert_eq!(
            woven.text,
            "\nfn f(a: [u8; 2]) -> usize { match ::kmm_mutant::which(7, 2) {\n\
             7 => { // {\n    a.len() - 1\n}\n8 => { // {\n    0\n}\n_ => { // {\n    a.len() + 1\n}\n} }\n"
        );
        assert_eq!(woven.lines, [(7, 3, 5), (8, 6, 8)]);
        assert_eq!(woven.groups, [[7, 8]]);
        let woven = weave(SOURCE, &mutants, &[7]);
        assert_eq!(woven.lines, [(8, 3, 5)]);
    }

    #[test]
    fn what_has_no_body_of_its_own_is_left_out() {
        let mut outside = mutant((3, 13, 14), "-");
        outside.function = None;
        let inner = mutant((3, 13, 14), "-");
        let mut outer = mutant((3, 13, 14), "-");
        outer.function.as_mut().unwrap().span.end.line = 9;
        assert_eq!(can_weave(&[(1, &outside), (2, &inner), (3, &outer)]), [3]);
    }
}
