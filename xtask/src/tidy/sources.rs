//! Rules for single source files: `unsafe` has its proof, files are of one concept, nothing is left over.

use super::Complaint;

/// More lines than this are two concepts; from the smaller number on one should look for the second.
const MOST_LINES: usize = 900;
const MANY_LINES: usize = 600;
/// A statement may begin so many lines of code above its `unsafe`.
const REACH: usize = 3;

/// What a file's length asks for.
pub(crate) enum Size {
    Large(Complaint),
    TooLarge(Complaint),
}

pub(crate) fn size(path: &str, text: &str) -> Option<Size> {
    let count = text.lines().count();
    let complaint = |limit: usize| {
        Complaint::new(
            path,
            format!("{count} lines, more than {limit}: look for the second concept"),
        )
    };
    match count {
        0..=MANY_LINES => None,
        _ if count <= MOST_LINES => Some(Size::Large(complaint(MANY_LINES))),
        _ => Some(Size::TooLarge(complaint(MOST_LINES))),
    }
}

/// `unsafe` blocks and impls without a `SAFETY` comment above them.
pub(crate) fn unsafe_without_proof(path: &str, text: &str) -> Vec<Complaint> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut complaints = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if opens_unsafe(line) && !has_proof(&lines, at) {
            complaints.push(Complaint::new(
                format!("{path}:{}", at + 1),
                "`unsafe` without a SAFETY comment above it",
            ));
        }
    }
    complaints
}

/// Marks of unfinished work.
pub(crate) fn leftovers(path: &str, text: &str) -> Vec<Complaint> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let found = text.lines().enumerate().flat_map(|(at, line)| {
        marks
            .iter()
            .filter(|mark| has_word(line, mark))
            .map(move |mark| (at + 1, mark))
    });
    found
        .map(|(line, mark)| {
            Complaint::new(format!("{path}:{line}"), format!("`{mark}` is left over"))
        })
        .collect()
}

/// Does the line open an unsafe block or impl, outside of comments and strings?
fn opens_unsafe(line: &str) -> bool {
    let code = code_of(line);
    let mut from = 0;
    while let Some(at) = code[from..].find("unsafe") {
        let start = from + at;
        let end = start + "unsafe".len();
        let whole = code[..start]
            .chars()
            .next_back()
            .is_none_or(|c| !is_word(c));
        let rest = code[end..].trim_start();
        // `unsafe` at the end of a line has its brace on the next.
        if whole
            && (rest.starts_with('{')
                || rest.starts_with("impl")
                || (rest.is_empty() && code[end..].is_empty() && code.trim() == "unsafe"))
        {
            return true;
        }
        from = end;
    }
    false
}

/// The line without string contents and without a comment at its end.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => code.push(c),
        }
    }
    code
}

fn has_proof(lines: &[&str], at: usize) -> bool {
    if lines[at].contains("SAFETY") {
        return true;
    }
    // A comment may also be the first thing inside of a block that a macro or a closure opened.
    let mut code_lines = 0;
    for line in lines[..at].iter().rev() {
        let is_comment = line.starts_with("//");
        if is_comment && (line.contains("SAFETY") || line.contains("# Safety")) {
            return true;
        }
        if !is_comment && !line.starts_with("#[") {
            code_lines += 1;
            if code_lines > REACH {
                return false;
            }
        }
    }
    false
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_none_or(|c| !is_word(c));
        let after = line[at + word.len()..]
            .chars()
            .next()
            .is_none_or(|c| !is_word(c));
        before && (after || word.ends_with('('))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_proof(text: &str) -> usize {
        unsafe_without_proof("x.rs", text).len()
    }

    #[test]
    fn unsafe_with_its_proof_is_fine() {
        assert_eq!(
            without_proof("// SAFETY: INV-3.\nlet x = unsafe { f() };"),
            0
        );
        assert_eq!(
            without_proof("// SAFETY: a long\n// proof.\n#[inline]\nunsafe impl T for X {}"),
            0
        );
        assert_eq!(
            without_proof("// SAFETY: it is.\nlet x =\n    g(\n        unsafe { f() });"),
            0
        );
        assert_eq!(without_proof("unsafe { f() } // SAFETY: short."), 0);
    }

    #[test]
    fn unsafe_without_its_proof_is_complained_about() {
        assert_eq!(without_proof("let x = unsafe { f() };"), 1);
        assert_eq!(without_proof("unsafe impl T for X {}"), 1);
        assert_eq!(
            without_proof("let y = match x {\n    _ => unsafe {\n        f()\n    }\n};"),
            1
        );
        assert_eq!(
            without_proof("// SAFETY: far away.\na;\nb;\nc;\nd;\nlet x = unsafe { f() };"),
            1
        );
        assert_eq!(without_proof("// A remark.\nlet x = unsafe { f() };"), 1);
    }

    #[test]
    fn declarations_comments_and_strings_are_no_blocks() {
        assert_eq!(
            without_proof("pub unsafe fn f() {}\nunsafe extern \"C\" {}\nunsafe trait T {}"),
            0
        );
        assert_eq!(
            without_proof("// an unsafe { block }\nlet s = \"unsafe {\";\nnot_unsafe {}"),
            0
        );
    }

    #[test]
    fn left_over_marks_are_found_as_words() {
        assert_eq!(
            leftovers(
                "x.rs",
                concat!("// TO", "DO: later\n// FIX", "ME\ntodo", "!()\n")
            )
            .len(),
            3
        );
        assert_eq!(
            leftovers("x.rs", "// what is to do\nlet MASTODONS = 1;").len(),
            0
        );
    }

    #[test]
    fn long_files_are_noted_and_longer_ones_complained_about() {
        assert!(size("x.rs", &"x\n".repeat(600)).is_none());
        assert!(matches!(
            size("x.rs", &"x\n".repeat(601)),
            Some(Size::Large(_))
        ));
        assert!(matches!(
            size("x.rs", &"x\n".repeat(901)),
            Some(Size::TooLarge(_))
        ));
    }
}
