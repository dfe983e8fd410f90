//! Calls that are made to fail: `name:n:code`, `name:n+:code`, `*:n:code`, comma-separated.

use crate::codes::CUresult;

/// One rule.
#[derive(Clone, Debug)]
struct Fault {
    name: String,
    first: u64,
    and_later: bool,
    code: CUresult,
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Reads a specification; a rule that does not parse is ignored.
    pub fn parse(specification: &str) -> Self {
        Self(specification.split(',').filter_map(parse_one).collect())
    }

    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The code with which the `nth` call of `name`, the `total`-th of all, fails.
    pub fn verdict(&self, name: &str, nth: u64, total: u64) -> Option<CUresult> {
        let applies = |fault: &&Fault| {
            let count = match fault.name.as_str() {
                "*" => total,
                own if own == name => nth,
                _ => return false,
            };
            count == fault.first || (fault.and_later && count > fault.first)
        };
        self.0.iter().find(applies).map(|fault| fault.code)
    }
}

fn parse_one(rule: &str) -> Option<Fault> {
    let mut parts = rule.trim().splitn(3, ':');
    let (name, nth, code) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Fault {
        name: name.to_owned(),
        first: nth.trim_end_matches('+').parse().ok()?,
        and_later: nth.ends_with('+'),
        code: code.parse().ok()?,
    })
}
