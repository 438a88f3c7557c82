//! The command line of one command: named flags, and what stands after `--`.

use anyhow::{Result, bail};

/// Flags not yet asked for; [`Flags::finish`] complains about the rest.
pub(crate) struct Flags {
    rest: Vec<String>,
    tail: Vec<String>,
}

impl Flags {
    pub(crate) fn new(args: impl Iterator<Item = String>) -> Self {
        let mut rest: Vec<String> = args.collect();
        let mut tail = Vec::new();
        if let Some(at) = rest.iter().position(|arg| arg == "--") {
            tail = rest.split_off(at + 1);
            rest.pop();
        }
        Self { rest, tail }
    }

    /// Was `--name` given?
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|arg| arg != name);
        self.rest.len() != before
    }

    /// Was `--name` given, and nothing else?
    pub(crate) fn is_only(&self, name: &str) -> bool {
        self.rest == [name]
    }

    /// The values of every `--name VALUE` or `--name=VALUE`, in order.
    pub(crate) fn values(&mut self, name: &str) -> Result<Vec<String>> {
        let mut values = Vec::new();
        let mut rest = Vec::new();
        let mut args = self.rest.drain(..);
        while let Some(arg) = args.next() {
            if arg == name {
                let Some(value) = args.next() else {
                    bail!("{name} wants a value")
                };
                values.push(value);
            } else if let Some(value) = arg.strip_prefix(name).and_then(|arg| arg.strip_prefix('='))
            {
                values.push(value.to_owned());
            } else {
                rest.push(arg);
            }
        }
        drop(args);
        self.rest = rest;
        Ok(values)
    }

    /// The value of the last `--name VALUE`.
    pub(crate) fn value(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.values(name)?.pop())
    }

    /// The same, as a number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.value(name)? else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => bail!("{name} wants a number, not {value:?}"),
        }
    }

    /// The number behind `--name`, `without` if it stands there alone, `None` if it does not.
    pub(crate) fn number_or(&mut self, name: &str, without: u32) -> Result<Option<u32>> {
        let at = self.rest.iter().position(|arg| arg == name);
        let next = at.and_then(|at| self.rest.get(at + 1));
        if at.is_some() && next.is_none_or(|next| next.starts_with("--")) {
            self.flag(name);
            return Ok(Some(without));
        }
        self.number(name)
    }

    /// What stood after `--`, once nothing unknown is left before it.
    pub(crate) fn finish(self) -> Result<Vec<String>> {
        if let Some(arg) = self.rest.first() {
            bail!("unknown argument {arg:?}; `cargo xtask help` lists them");
        }
        Ok(self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;

    fn flags(line: &str) -> Flags {
        Flags::new(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn flags_values_and_the_tail_are_told_apart() {
        let mut flags = flags("--uefi --mem 64M --exec ls --exec=ps --smp 2 -- --mem x");
        assert!(flags.flag("--uefi"));
        assert!(!flags.flag("--gdb"));
        assert!(!flags.is_only("--uefi"));
        assert_eq!(flags.value("--mem").unwrap().as_deref(), Some("64M"));
        assert_eq!(flags.values("--exec").unwrap(), ["ls", "ps"]);
        assert_eq!(flags.number("--smp").unwrap(), Some(2));
        assert_eq!(flags.finish().unwrap(), ["--mem", "x"]);
    }

    #[test]
    fn a_flag_by_itself_is_known() {
        assert!(flags("--save").is_only("--save"));
        assert!(!flags("--save --guest").is_only("--save"));
    }

    #[test]
    fn a_number_may_be_left_out() {
        let number = |line: &str| flags(line).number_or("--fuzz", 60).unwrap();
        assert_eq!(number("--fuzz 5 --run"), Some(5));
        assert_eq!(number("--fuzz"), Some(60));
        assert_eq!(number("--fuzz --run"), Some(60));
        assert_eq!(number("--run"), None);
        assert!(flags("--fuzz long").number_or("--fuzz", 60).is_err());
    }

    #[test]
    fn unknown_flags_and_bad_values_are_errors() {
        assert!(flags("--nonsense").finish().is_err());
        assert!(flags("--smp many").number("--smp").is_err());
        assert!(flags("--mem").value("--mem").is_err());
    }
}
