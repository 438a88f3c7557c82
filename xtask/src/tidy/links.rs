//! Relative links in Markdown lead somewhere.

use super::Complaint;

/// `exists` is asked for paths from the root of the checkout.
pub(crate) fn check(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<Complaint> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut complaints = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains(':') || file.starts_with('<') {
                continue;
            }
            let resolved = file
                .strip_prefix('/')
                .map_or_else(|| resolve(folder, file), |file| resolve("", file));
            if !exists(&resolved) {
                complaints.push(Complaint::new(
                    format!("{path}:{}", at + 1),
                    format!("the link to {target} leads nowhere"),
                ));
            }
        }
    }
    complaints
}

/// What stands between `](` and `)`, outside of code spans.
fn targets(line: &str) -> Vec<String> {
    let without_code: String = line
        .split('`')
        .enumerate()
        .map(|(at, part)| if at % 2 == 0 { part } else { "" })
        .collect();
    let pieces = without_code.split("](").skip(1);
    pieces
        .filter_map(|piece| {
            Some(
                piece
                    .split_once(')')?
                    .0
                    .split_whitespace()
                    .next()?
                    .to_owned(),
            )
        })
        .collect()
}

fn resolve(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> usize {
        check(path, text, &|target| {
            ["docs/a.md", "README.md", "crates"].contains(&target)
        })
        .len()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        assert_eq!(
            complaints(
                "docs/b.md",
                "[a](a.md) [r](../README.md#x) [c](/crates/) [w](https://example.org/x) [h](#here)"
            ),
            0
        );
        assert_eq!(complaints("b.md", "`[i](gone)`\n```\nx[0](gone)\n```\n"), 0);
    }

    #[test]
    fn links_that_lead_nowhere_are_complained_about() {
        assert_eq!(complaints("docs/b.md", "[a](gone.md)"), 1);
        assert_eq!(
            complaints("docs/b.md", "[a](README.md) [b](../docs/b.md \"title\")"),
            2
        );
    }
}
