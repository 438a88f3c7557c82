//! `cargo xtask bench`: every figure of every allocator, in turns; tables for people, rows for tools.
#![expect(unsafe_code, reason = "the main thread stands for a CPU")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use kmm_benches::figure::Area;
use kmm_benches::region::Region;
use kmm_benches::rounds::{Contestant, Outcome, Plan, Repeats, run};
use kmm_benches::{cpu, figure, footprint, frames, machine, objects, report, rows};

const HELP: &str = "\
bench [--quick] [--figure ID]... [--area frames|objects] [--only NAME]... [--out DIR]

  --quick       fewer and shorter rounds
  --figure ID   only this figure, and those that come with it; `--list` names them
  --only NAME   only ours and allocators whose name contains this
  --out DIR     where rows.tsv and figures.tsv go; `target/bench` unless told
";

struct Options {
    plan: Plan,
    figures: Vec<String>,
    area: Option<String>,
    only: Vec<String>,
    out: PathBuf,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            plan: Plan::FULL,
            figures: Vec::new(),
            area: None,
            only: Vec::new(),
            out: PathBuf::from("target/bench"),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                "--quick" => options.plan = Plan::QUICK,
                "--figure" => options.figures.push(value()?),
                "--area" => options.area = Some(value()?),
                "--only" => options.only.push(value()?),
                "--out" => options.out = value()?.into(),
                _ => return Err(HELP.to_owned()),
            }
        }
        if let Some(id) = options.figures.iter().find(|id| !is_figure(id)) {
            return Err(format!("no figure {id}; --list names them"));
        }
        Ok(options)
    }

    fn wants(&self, area: Area, figures: &[&str]) -> bool {
        let in_area = self.area.as_deref().is_none_or(|name| name == area.name());
        let listed = |id: &&str| self.figures.iter().any(|wanted| wanted == id);
        in_area && (self.figures.is_empty() || figures.iter().any(listed))
    }

    fn takes_part(&self, name: &str) -> bool {
        let named = |only: &String| name.contains(only.as_str());
        name == "kmm" || self.only.is_empty() || self.only.iter().any(named)
    }
}

fn is_figure(id: &str) -> bool {
    figure::ALL.iter().any(|figure| figure.id == id)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // SAFETY: the main thread; threads that stand for a CPU are waited for.
    unsafe { cpu::stand_for(cpu::MEASURING) };
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            list();
            Ok(())
        }
        [footprint::CHILD_FLAG, allocator, figure] => footprint::child(allocator, figure),
        _ => Options::parse(args.into_iter()).and_then(|options| measure(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    for figure in figure::ALL {
        println!("{}\t{}\t{}", figure.area.name(), figure.id, figure.title);
    }
}

fn measure(options: &Options) -> Result<(), String> {
    cpu::allowed();
    cpu::raise_priority();
    let head = machine::description();
    for line in &head {
        println!("{line}");
    }
    if cpu::allowed().len() < cpu::NR_CPUS {
        println!("one CPU only: figures of two threads mean nothing here");
    }
    let mut outcomes = measure_frames(options);
    tell(
        options,
        Area::Frames,
        &report::tables(Area::Frames, &outcomes),
    )?;
    Region::unmap_kept();
    outcomes.extend(measure_objects(options));
    let mut tables = report::tables(Area::Objects, &outcomes);
    if options.wants(Area::Objects, &[]) {
        tables += &objects::back_ends_table();
    }
    tell(options, Area::Objects, &tables)?;
    save(options, &head, &outcomes).map_err(|error| format!("{}: {error}", options.out.display()))
}

/// Prints the tables of an area, and keeps them in a file of its name.
fn tell(options: &Options, area: Area, text: &str) -> Result<(), String> {
    print!("{text}");
    let path = options.out.join(area.name()).with_extension("txt");
    std::fs::create_dir_all(&options.out)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn save(options: &Options, head: &[String], outcomes: &[Outcome]) -> std::io::Result<()> {
    std::fs::create_dir_all(&options.out)?;
    let (rows_path, figures_path) = (
        options.out.join("rows.tsv"),
        options.out.join("figures.tsv"),
    );
    rows::merge_into(&rows_path, &rows::rows(outcomes))?;
    rows::write_figures(&figures_path, head, outcomes)?;
    println!("\n{}\n{}", rows_path.display(), figures_path.display());
    Ok(())
}

fn measure_frames(options: &Options) -> Vec<Outcome> {
    let entries: Vec<frames::Entry> = frames::entries()
        .into_iter()
        .filter(|entry| options.takes_part(entry.name))
        .collect();
    let mut outcomes = Vec::new();
    for kind in frames::Kind::ALL {
        if !options.wants(Area::Frames, kind.figures()) {
            continue;
        }
        outcomes.extend(heard(Area::Frames, kind.figures(), || {
            let mut contestants: Vec<Contestant> = entries
                .iter()
                .filter_map(|entry| {
                    Some(Contestant {
                        name: entry.name,
                        role: entry.role,
                        workload: entry.workload(kind, &options.plan)?,
                    })
                })
                .collect();
            run(
                Area::Frames,
                &mut contestants,
                kind.repeats(),
                &options.plan,
            )
        }));
    }
    outcomes
}

fn measure_objects(options: &Options) -> Vec<Outcome> {
    let entries: Vec<objects::Entry> = objects::entries()
        .into_iter()
        .filter(|entry| options.takes_part(entry.name))
        .collect();
    let mut outcomes = Vec::new();
    for kind in objects::Kind::ALL {
        if !options.wants(Area::Objects, kind.figures()) {
            continue;
        }
        outcomes.extend(heard(Area::Objects, kind.figures(), || {
            let mut contestants: Vec<Contestant> = entries
                .iter()
                .map(|entry| Contestant {
                    name: entry.name,
                    role: entry.role,
                    workload: entry.workload(kind, &options.plan),
                })
                .collect();
            run(
                Area::Objects,
                &mut contestants,
                Repeats::Timed,
                &options.plan,
            )
        }));
    }
    for (id, _) in footprint::FIGURES {
        if options.wants(Area::Objects, &[id]) {
            outcomes.extend(heard(Area::Objects, &[id], || {
                let measured = entries
                    .iter()
                    .filter_map(|entry| footprint::measure(entry, id));
                measured.collect()
            }));
        }
    }
    outcomes
}

/// Says what is being measured, and how long it took.
fn heard(area: Area, figures: &[&str], work: impl FnOnce() -> Vec<Outcome>) -> Vec<Outcome> {
    let start = Instant::now();
    let outcomes = work();
    let took = start.elapsed().as_secs_f64();
    eprintln!("  {} {}: {took:.1} s", area.name(), figures.join(", "));
    outcomes
}
