//! The host's procps reads what the guest's kernel says of its object caches: its text is bound over `/proc/slabinfo` in a
//! mount namespace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};

use crate::proc;

/// What `vmstat -m` shows of a name.
const NAME_LEN: usize = 23;

/// A line of slabinfo: objects in use and in all, their size, how many in a slab; slabs in use and in all.
#[derive(Debug, PartialEq, Eq)]
struct Cache {
    objects: [u64; 2],
    size_bytes: u64,
    objs_per_slab: u64,
    slabs: [u64; 2],
}

/// The caches by name, cut to what `vmstat -m` shows.
fn parse(text: &str) -> Result<BTreeMap<&str, Cache>> {
    let mut lines = text.lines();
    ensure!(
        lines.next() == Some("slabinfo - version: 2.1"),
        "another version: {text:?}"
    );
    ensure!(
        lines.next().is_some_and(|line| line.starts_with("# name ")),
        "no heading"
    );
    let mut caches = BTreeMap::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, numbers @ ..] = &words[..] else {
            bail!("an empty line")
        };
        let number = |nr: usize| -> Result<u64> {
            let word = numbers.get(nr).context("a line is too short")?;
            word.parse().with_context(|| format!("no number: {word}"))
        };
        let cache = Cache {
            objects: [number(0)?, number(1)?],
            size_bytes: number(2)?,
            objs_per_slab: number(3)?,
            slabs: [number(12)?, number(13)?],
        };
        let shown = name.get(..NAME_LEN).unwrap_or(name);
        ensure!(caches.insert(shown, cache).is_none(), "{shown} twice");
    }
    Ok(caches)
}

/// What `program` prints when it finds `file` as /proc/slabinfo; why it cannot be tried.
fn run_on(file: &Path, program: &str) -> Result<core::result::Result<String, String>> {
    let name = program.split(' ').next().unwrap_or(program);
    if !Path::new("/usr/bin").join(name).exists() {
        return Ok(Err(format!("{name} is not installed")));
    }
    let in_namespace = |script: &str| -> Option<Output> {
        let mut unshare = Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", script, "sh"]).arg(file);
        unshare.output().ok()
    };
    let bind = "mount --bind \"$1\" /proc/slabinfo";
    if !in_namespace(bind).is_some_and(|output| output.status.success()) {
        return Ok(Err("no mount namespace here".to_owned()));
    }
    let output = in_namespace(&format!("{bind} && {program}")).context("cannot start unshare")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Ok(text))
}

/// Lets unmodified `vmstat -m` and `slabtop -o` read `text`: they understand every line. Says which are missing.
pub(super) fn read(text: &str) -> Result<()> {
    let caches = parse(text)?;
    ensure!(
        caches
            .get("kmalloc-64")
            .is_some_and(|cache| cache.objects[0] > 0),
        "nobody uses kmalloc-64: {text}"
    );
    let file = proc::target_dir().join(format!("xtask/slabinfo-{}", std::process::id()));
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let outcome = [
        ("vmstat -m", vmstat as fn(&_, &str) -> Result<()>),
        ("slabtop -o", slabtop),
    ]
    .into_iter()
    .try_for_each(|(program, judge)| match run_on(&file, program)? {
        Ok(shown) => judge(&caches, &shown).with_context(|| format!("{program}:\n{shown}")),
        Err(why) => {
            println!("skipped: {program} on the guest's slabinfo: {why}");
            Ok(())
        }
    });
    std::fs::remove_file(&file).ok();
    outcome
}

/// A line for each cache: its name, objects in use and in all, size, objects in a slab.
fn vmstat(caches: &BTreeMap<&str, Cache>, shown: &str) -> Result<()> {
    let mut nr_lines = 0;
    // The heading comes again on each page.
    for line in shown.lines().filter(|line| !line.starts_with("Cache ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let cache = words.first().and_then(|name| caches.get(name));
        let cache = cache.with_context(|| format!("what is {line:?}?"))?;
        let numbers = [
            cache.objects[0],
            cache.objects[1],
            cache.size_bytes,
            cache.objs_per_slab,
        ];
        ensure!(
            words[1..] == numbers.map(|number| number.to_string()),
            "{line:?} is not {cache:?}"
        );
        nr_lines += 1;
    }
    ensure!(nr_lines == caches.len(), "{nr_lines} of {}", caches.len());
    Ok(())
}

/// Sums, and a line for each cache.
fn slabtop(caches: &BTreeMap<&str, Cache>, shown: &str) -> Result<()> {
    let sum = |of: fn(&Cache) -> [u64; 2]| {
        let add = |[a, b]: [u64; 2], [c, d]: [u64; 2]| [a + c, b + d];
        let [active, total] = caches.values().map(of).fold([0; 2], add);
        format!(": {active} / {total} (")
    };
    for (what, sum) in [
        ("Objects", sum(|cache| cache.objects)),
        ("Slabs", sum(|cache| cache.slabs)),
    ] {
        let line = shown.lines().find(|line| line.contains(what));
        ensure!(
            line.is_some_and(|line| line.contains(&sum)),
            "not the sum of {what}: {line:?} {sum}"
        );
    }
    let rows = shown.lines().skip_while(|line| !line.contains("OBJ SIZE"));
    let mut nr_rows = 0;
    for row in rows.skip(1) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let cache = words.last().and_then(|name| caches.get(name));
        let cache = cache.with_context(|| format!("what is {row:?}?"))?;
        let [active, total] = cache.objects.map(|count| count.to_string());
        ensure!(words[..2] == [total, active], "{row:?} is not {cache:?}");
        nr_rows += 1;
    }
    ensure!(nr_rows == caches.len(), "{nr_rows} of {}", caches.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize>
a_cache_with_a_very_long_name     30     36   4096    4    4 : tunables    0    0    0 : slabdata      8      9      0
kmalloc-64             1     64     64   64    1 : tunables    0    0    0 : slabdata      1      1      0
";
    const VMSTAT: &str = "Cache                       Num  Total   Size  Pages
a_cache_with_a_very_lon      30     36   4096      4
Cache                       Num  Total   Size  Pages
kmalloc-64                    1     64     64     64
";
    const SLABTOP: &str = " Active / Total Objects (% used)    : 31 / 100 (31.0%)
 Active / Total Slabs (% used)      : 9 / 10 (90.0%)

  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME
    64      1   1%    0.06K      1       64         4K kmalloc-64
    36     30  83%    4.00K      9        4       144K a_cache_with_a_very_lon
";

    #[test]
    fn what_they_show_is_compared_number_by_number() {
        let caches = parse(TEXT).unwrap();
        vmstat(&caches, VMSTAT).unwrap();
        slabtop(&caches, SLABTOP).unwrap();
        assert!(vmstat(&caches, &VMSTAT.replace("4096", "4095")).is_err());
        assert!(vmstat(&caches, &VMSTAT.replace("kmalloc-64 ", "kmalloc-96 ")).is_err());
        assert!(vmstat(&caches, VMSTAT.trim_end().rsplit_once('\n').unwrap().0).is_err());
        assert!(slabtop(&caches, &SLABTOP.replace("31 / 100", "30 / 100")).is_err());
        assert!(slabtop(&caches, &SLABTOP.replace("9 / 10 ", "9 / 11 ")).is_err());
        assert!(slabtop(&caches, &SLABTOP.replace("64      1 ", "64      2 ")).is_err());
    }

    #[test]
    fn another_text_is_refused() {
        assert!(parse(&TEXT.replace("2.1", "2.0")).is_err());
        assert!(parse(&TEXT.replace("   1     64", "   x     64")).is_err());
        assert!(read(&TEXT.replace("kmalloc-64", "kmalloc-65")).is_err());
    }
}
