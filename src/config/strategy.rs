//! The ways to read files, by name.

use std::fmt;
use std::str::FromStr;

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Strategy {
    /// Chosen for each chunk by what is known and was measured.
    #[default]
    Auto,
    /// `pread(2)` through the page cache.
    Pread,
    /// Copied from a mapping, as far as the page cache has it.
    Mapped,
    /// `pread(2)` through the page cache, with hints for what comes next.
    ReadAhead,
    /// `pread(2)` with O_DIRECT, past the page cache.
    Direct,
    /// O_DIRECT through io_uring, several reads of each worker under way.
    Uring,
}

/// A name that no strategy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no strategy {0:?}; there are {names}", names = Strategy::NAMES.join(", "))]
pub struct UnknownStrategy(String);

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 6] = [
        Strategy::Auto,
        Strategy::Pread,
        Strategy::Mapped,
        Strategy::ReadAhead,
        Strategy::Direct,
        Strategy::Uring,
    ];

    /// Their names, in the same order.
    pub const NAMES: [&'static str; 6] = [
        Strategy::Auto.name(),
        Strategy::Pread.name(),
        Strategy::Mapped.name(),
        Strategy::ReadAhead.name(),
        Strategy::Direct.name(),
        Strategy::Uring.name(),
    ];

    /// The name that settings and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Auto => "auto",
            Strategy::Pread => "pread",
            Strategy::Mapped => "mapped",
            Strategy::ReadAhead => "readahead",
            Strategy::Direct => "direct",
            Strategy::Uring => "io_uring",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Strategy, UnknownStrategy> {
        Strategy::ALL
            .into_iter()
            .find(|strategy| strategy.name() == text)
            .ok_or_else(|| UnknownStrategy(text.to_owned()))
    }
}
