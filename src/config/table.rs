//! The table of settings.

use super::Strategy;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::PathBuf;

/// One setting of rewarm.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the environment variable.
    pub name: &'static str,
    /// Option of `rewarm run` that sets it.
    pub flag: Option<Flag>,
    /// What it takes, and its default.
    pub kind: Kind,
    /// What it does, for the README and `rewarm run --help`.
    pub meaning: &'static str,
}

/// Option of `rewarm run`.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its long name, without the dashes.
    pub long: &'static str,
    /// Placeholder of its value, or the value that the bare option stands for.
    pub value: FlagValue,
}

/// What follows an option.
#[derive(Clone, Copy, Debug)]
pub enum FlagValue {
    /// A value, shown under this name.
    Named(&'static str),
    /// Nothing: the option itself means this value.
    Implied(&'static str),
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `0` or `1`.
    Switch {
        /// Default.
        default: bool,
    },
    /// A whole number in a range.
    Number {
        /// Default.
        default: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
        /// Unit, empty for a plain count.
        unit: &'static str,
    },
    /// One of a few words.
    Choice {
        /// Default.
        default: &'static str,
        /// All of them.
        words: &'static [&'static str],
    },
    /// A path; the text describes the default.
    Path {
        /// What holds when it is not set.
        default: &'static str,
    },
}

/// A value that a setting takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Switch(bool),
    Number(u64),
    Word(&'static str),
    Path(Option<PathBuf>),
}

impl Setting {
    /// Checks a value as it would be given in the environment.
    ///
    /// # Errors
    /// What a right value would be.
    pub fn check(&self, text: &OsStr) -> Result<(), String> {
        self.parse(text).map(drop)
    }

    pub(super) fn parse(&self, text: &OsStr) -> Result<Value, String> {
        match self.kind {
            Kind::Switch { .. } => match text.to_str() {
                Some("0") => Ok(Value::Switch(false)),
                Some("1") => Ok(Value::Switch(true)),
                _ => Err("must be 0 or 1".to_owned()),
            },
            Kind::Number { min, max, .. } => text
                .to_str()
                .and_then(|text| text.parse().ok())
                .filter(|number| (min..=max).contains(number))
                .map(Value::Number)
                .ok_or_else(|| format!("must be a whole number from {min} to {max}")),
            Kind::Choice { words, .. } => words
                .iter()
                .find(|word| text == **word)
                .map(|word| Value::Word(word))
                .ok_or_else(|| format!("must be one of {}", words.join(", "))),
            Kind::Path { .. } => Ok(Value::Path(Some(text.into()))),
        }
    }

    pub(super) fn default_value(&self) -> Value {
        match self.kind {
            Kind::Switch { default } => Value::Switch(default),
            Kind::Number { default, .. } => Value::Number(default),
            Kind::Choice { default, .. } => Value::Word(default),
            Kind::Path { .. } => Value::Path(None),
        }
    }

    /// The default, for people.
    pub fn default_text(&self) -> String {
        match self.kind {
            Kind::Switch { default } => u8::from(default).to_string(),
            Kind::Number { default, .. } => default.to_string(),
            Kind::Choice { default, .. } | Kind::Path { default } => default.to_owned(),
        }
    }

    /// What may be given, for people.
    pub fn range_text(&self) -> String {
        match self.kind {
            Kind::Switch { .. } => "0 or 1".to_owned(),
            Kind::Number {
                min, max, unit: "", ..
            } => format!("{min} to {max}"),
            Kind::Number { min, max, unit, .. } => format!("{min} to {max} {unit}"),
            Kind::Choice { words, .. } => words.join(", "),
            Kind::Path { .. } => "path".to_owned(),
        }
    }

    /// The option as it is typed, empty if there is none.
    pub fn flag_text(&self) -> String {
        match self.flag {
            Some(Flag {
                long,
                value: FlagValue::Named(name),
            }) => format!("--{long} {name}"),
            Some(Flag {
                long,
                value: FlagValue::Implied(_),
            }) => format!("--{long}"),
            None => String::new(),
        }
    }
}

const fn named(long: &'static str, value: &'static str) -> Option<Flag> {
    Some(Flag {
        long,
        value: FlagValue::Named(value),
    })
}

const fn implied(long: &'static str, value: &'static str) -> Option<Flag> {
    Some(Flag {
        long,
        value: FlagValue::Implied(value),
    })
}

pub(super) const DISABLE: Setting = Setting {
    name: "REWARM_DISABLE",
    flag: None,
    kind: Kind::Switch { default: false },
    meaning: "1: kill switch, the library does nothing at all",
};
pub(super) const PARALLEL: Setting = Setting {
    name: "CRIU_CUDA_PARALLEL_RESTORE",
    flag: implied("no-parallel", "0"),
    kind: Kind::Switch { default: true },
    meaning: "0: copies are not fanned out",
};
pub(super) const LANES: Setting = Setting {
    name: "CRIU_CUDA_STREAMS",
    flag: named("lanes", "N"),
    kind: Kind::Number {
        default: 8,
        min: 1,
        max: 64,
        unit: "",
    },
    meaning: "lanes per device; never more than the CPUs that the process may use",
};
pub(super) const CHUNK: Setting = Setting {
    name: "CRIU_CUDA_CHUNK_MB",
    flag: named("chunk-mb", "N"),
    kind: Kind::Number {
        default: 4,
        min: 1,
        max: 4096,
        unit: "MiB",
    },
    meaning: "largest chunk of a copy; clamped so that two for each lane fit the staging memory",
};
pub(super) const PREWARM: Setting = Setting {
    name: "CRIU_CUDA_CONTEXT_POOL",
    flag: implied("prewarm", "1"),
    kind: Kind::Switch { default: false },
    meaning: "1: create the CUDA context while the program is still starting",
};
pub(super) const FREEZABLE: Setting = Setting {
    name: "REWARM_FREEZABLE",
    flag: implied("freezable", "1"),
    kind: Kind::Switch { default: false },
    meaning: "1: device memory can be frozen: `rewarm freeze` takes it out, `rewarm thaw` brings it back",
};
pub(super) const STAGING: Setting = Setting {
    name: "REWARM_STAGING_MB",
    flag: named("staging-mb", "N"),
    kind: Kind::Number {
        default: 128,
        min: 8,
        max: 1024,
        unit: "MiB",
    },
    meaning: "most pinned staging memory per device",
};
pub(super) const MIN_COPY: Setting = Setting {
    name: "REWARM_MIN_COPY_KB",
    flag: named("min-copy-kb", "N"),
    kind: Kind::Number {
        default: 2048,
        min: 64,
        max: 1 << 20,
        unit: "KiB",
    },
    meaning: "smaller copies are left to the driver",
};
pub(super) const READ_FILES: Setting = Setting {
    name: "REWARM_READ_FILES",
    flag: implied("no-read-files", "0"),
    kind: Kind::Switch { default: true },
    meaning: "0: a copy from a mapped file reads the memory, never the file",
};
pub(super) const READ_STRATEGY: Setting = Setting {
    name: "REWARM_READ_STRATEGY",
    flag: named("read-strategy", "NAME"),
    kind: Kind::Choice {
        default: Strategy::Auto.name(),
        words: &Strategy::NAMES,
    },
    meaning: "how files are read; `auto` goes by what is cached, by the file system and by what was measured",
};
pub(super) const STATS: Setting = Setting {
    name: "REWARM_STATS",
    flag: named("stats", "FILE"),
    kind: Kind::Path { default: "none" },
    meaning: "file that gets the report as JSON, up to date when the process ends",
};
pub(super) const LOG: Setting = Setting {
    name: "REWARM_LOG",
    flag: named("log", "FILE"),
    kind: Kind::Path { default: "none" },
    meaning: "file that log lines are appended to",
};
pub(super) const RUN_DIR: Setting = Setting {
    name: "REWARM_RUN_DIR",
    flag: None,
    kind: Kind::Path {
        default: "`/run/rewarm` (root), `$XDG_RUNTIME_DIR/rewarm` or `/tmp/rewarm-UID`",
    },
    meaning: "folder of the control sockets",
};

pub(super) const SNAPSHOT_DIR: Setting = Setting {
    name: "REWARM_SNAPSHOT_DIR",
    flag: named("snapshot-dir", "DIR"),
    kind: Kind::Path { default: "none" },
    meaning: "folder in which `cuda-checkpoint` makes a snapshot of a freezable process that it locks; without it, it does what NVIDIA's does",
};

/// Every setting that users may give.
pub const SETTINGS: [Setting; 14] = [
    PREWARM,
    FREEZABLE,
    SNAPSHOT_DIR,
    PARALLEL,
    LANES,
    CHUNK,
    STAGING,
    MIN_COPY,
    READ_FILES,
    READ_STRATEGY,
    STATS,
    LOG,
    RUN_DIR,
    DISABLE,
];

/// Variable that names the process that prewarms for certain. `rewarm run
/// --prewarm` sets it to its own pid, which the command keeps; its children
/// inherit the variable but not the pid. Not for users, so not in the table.
pub const PREWARM_PID: &str = "REWARM_PREWARM_PID";

/// The table as the README has it.
pub fn markdown() -> String {
    let mut text = String::from(
        "| variable | option of `rewarm run` | values | default | meaning |\n|---|---|---|---|---|\n",
    );
    for setting in &SETTINGS {
        let flag = match setting.flag_text() {
            flag if flag.is_empty() => flag,
            flag => format!("`{flag}`"),
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            setting.name,
            flag,
            setting.range_text(),
            setting.default_text(),
            setting.meaning,
        );
    }
    text
}
