//! Settings as values.

use super::run_dirs::{effective_uid, run_dirs_of};
use super::table::{
    CHUNK, DISABLE, FREEZABLE, LANES, LOG, MIN_COPY, PARALLEL, PREWARM, PREWARM_PID, READ_FILES,
    READ_STRATEGY, RUN_DIR, SNAPSHOT_DIR, STAGING, STATS, Setting, Value,
};
use super::{Note, Strategy};
use std::ffi::OsString;
use std::path::PathBuf;

/// A value that a setting does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value} {problem}")]
pub struct BadValue {
    /// Name of the environment variable.
    pub name: &'static str,
    /// What was given.
    pub value: String,
    /// What would have been right.
    pub problem: String,
}

/// What the settings say, in bytes and counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Kill switch: the library does nothing at all.
    pub disable: bool,
    /// Whether copies are fanned out.
    pub parallel_restore: bool,
    /// Lanes per device that were asked for.
    pub lanes: usize,
    /// Largest chunk that was asked for, in bytes.
    pub chunk_bytes: usize,
    /// Whether device memory can be frozen.
    pub freezable: bool,
    /// Folder in which `cuda-checkpoint` makes snapshots.
    pub snapshot_dir: Option<PathBuf>,
    /// Whether processes prewarm.
    pub prewarm: bool,
    /// The process that prewarms for certain.
    pub prewarm_pid: Option<u32>,
    /// Most pinned staging memory per device, in bytes.
    pub staging_bytes: usize,
    /// Smallest copy that is fanned out, in bytes.
    pub min_copy_bytes: usize,
    /// Whether copies from mapped files read the file.
    pub read_files: bool,
    /// How files are read.
    pub read_strategy: Strategy,
    /// File that gets the report.
    pub stats: Option<PathBuf>,
    /// File that log lines are appended to.
    pub log: Option<PathBuf>,
    /// Folders that may hold the control socket, the preferred one first.
    pub run_dirs: Vec<PathBuf>,
}

impl Settings {
    /// Reads the environment of this process, with a note for each value that
    /// was ignored.
    pub fn from_env() -> (Settings, Vec<Note>) {
        Settings::from_lookup(|name| std::env::var_os(name))
    }

    /// Reads an environment, with a note for each value that was ignored.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<Note>) {
        let (settings, bad) = read(lookup);
        (settings, bad.iter().map(BadValue::note).collect())
    }

    /// Reads an environment.
    ///
    /// # Errors
    /// The first value that a setting does not take.
    pub fn strict(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Settings, BadValue> {
        let (settings, bad) = read(lookup);
        bad.into_iter().next().map_or(Ok(settings), Err)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings::from_lookup(|_| None).0
    }
}

impl BadValue {
    /// What a process does about it.
    fn note(&self) -> Note {
        let BadValue {
            name,
            value,
            problem,
        } = self;
        format!("{name}={value} ignored, the default holds: it {problem}")
    }
}

fn read(lookup: impl Fn(&str) -> Option<OsString>) -> (Settings, Vec<BadValue>) {
    let prewarm_pid = lookup(PREWARM_PID).and_then(|pid| pid.to_str()?.parse().ok());
    let xdg = lookup("XDG_RUNTIME_DIR");
    let mut reader = Reader {
        lookup,
        bad: Vec::new(),
    };
    let settings = Settings {
        disable: reader.switch(&DISABLE),
        parallel_restore: reader.switch(&PARALLEL),
        lanes: reader.number(&LANES),
        chunk_bytes: reader.number(&CHUNK) << 20,
        freezable: reader.switch(&FREEZABLE),
        snapshot_dir: reader.path(&SNAPSHOT_DIR),
        prewarm: reader.switch(&PREWARM),
        prewarm_pid,
        staging_bytes: reader.number(&STAGING) << 20,
        min_copy_bytes: reader.number(&MIN_COPY) << 10,
        read_files: reader.switch(&READ_FILES),
        read_strategy: reader.strategy(&READ_STRATEGY),
        stats: reader.path(&STATS),
        log: reader.path(&LOG),
        run_dirs: match reader.path(&RUN_DIR) {
            Some(folder) => vec![folder],
            None => run_dirs_of(effective_uid(), xdg.as_deref()),
        },
    };
    (settings, reader.bad)
}

struct Reader<F> {
    lookup: F,
    bad: Vec<BadValue>,
}

impl<F: Fn(&str) -> Option<OsString>> Reader<F> {
    /// The value given, or the default; an empty value counts as not given.
    fn value(&mut self, setting: &Setting) -> Value {
        let Some(text) = (self.lookup)(setting.name).filter(|text| !text.is_empty()) else {
            return setting.default_value();
        };
        setting.parse(&text).unwrap_or_else(|problem| {
            let value = text.to_string_lossy().into_owned();
            self.bad.push(BadValue {
                name: setting.name,
                value,
                problem,
            });
            setting.default_value()
        })
    }

    fn switch(&mut self, setting: &Setting) -> bool {
        self.value(setting) == Value::Switch(true)
    }

    fn number(&mut self, setting: &Setting) -> usize {
        match self.value(setting) {
            Value::Number(number) => usize::try_from(number).unwrap_or(usize::MAX),
            Value::Switch(_) | Value::Word(_) | Value::Path(_) => 0,
        }
    }

    fn strategy(&mut self, setting: &Setting) -> Strategy {
        match self.value(setting) {
            Value::Word(word) => word.parse().unwrap_or_default(),
            Value::Switch(_) | Value::Number(_) | Value::Path(_) => Strategy::default(),
        }
    }

    fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        match self.value(setting) {
            Value::Path(path) => path,
            Value::Switch(_) | Value::Number(_) | Value::Word(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn with(pairs: &[(&str, &str)]) -> (Settings, Vec<Note>) {
        Settings::from_lookup(|name| find(pairs, name))
    }

    fn find(pairs: &[(&str, &str)], name: &str) -> Option<OsString> {
        pairs
            .iter()
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.into())
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let (settings, notes) = with(&[]);
        assert_eq!(notes, [""; 0]);
        assert!(!settings.disable && settings.parallel_restore && !settings.prewarm);
        assert_eq!((settings.lanes, settings.chunk_bytes), (8, 4 << 20));
        assert_eq!(
            (settings.staging_bytes, settings.min_copy_bytes),
            (128 << 20, 2 << 20)
        );
        assert_eq!(
            (settings.stats, settings.log, settings.prewarm_pid),
            (None, None, None)
        );
    }

    #[test]
    fn values_are_read_in_their_units() {
        let (settings, notes) = with(&[
            ("CRIU_CUDA_PARALLEL_RESTORE", "0"),
            ("CRIU_CUDA_STREAMS", "12"),
            ("CRIU_CUDA_CHUNK_MB", "256"),
            ("CRIU_CUDA_CONTEXT_POOL", "1"),
            ("REWARM_MIN_COPY_KB", "64"),
            ("REWARM_STATS", "/tmp/s.json"),
            ("REWARM_RUN_DIR", "/somewhere"),
            ("REWARM_SNAPSHOT_DIR", "/snapshots"),
            ("REWARM_PREWARM_PID", "77"),
            ("REWARM_READ_STRATEGY", "io_uring"),
            ("REWARM_READ_FILES", "0"),
        ]);
        assert_eq!(notes, [""; 0]);
        assert!(!settings.parallel_restore && settings.prewarm);
        assert_eq!((settings.lanes, settings.chunk_bytes), (12, 256 << 20));
        assert_eq!(settings.min_copy_bytes, 64 << 10);
        assert_eq!(settings.stats.as_deref(), Some(Path::new("/tmp/s.json")));
        assert_eq!(settings.run_dirs, [Path::new("/somewhere")]);
        assert_eq!(
            settings.snapshot_dir.as_deref(),
            Some(Path::new("/snapshots"))
        );
        assert_eq!(settings.prewarm_pid, Some(77));
        assert_eq!(settings.read_strategy, Strategy::Uring);
        assert!(!settings.read_files);
    }

    #[test]
    fn bad_values_leave_a_note_and_the_default() {
        let bad = [
            ("CRIU_CUDA_STREAMS", "0"),
            ("CRIU_CUDA_STREAMS", "65"),
            ("CRIU_CUDA_STREAMS", "-1"),
            ("CRIU_CUDA_STREAMS", "8.0"),
            ("CRIU_CUDA_STREAMS", "99999999999999999999999"),
            ("CRIU_CUDA_CHUNK_MB", "4097"),
            ("CRIU_CUDA_CONTEXT_POOL", "yes"),
            ("REWARM_STAGING_MB", "4"),
            ("REWARM_READ_STRATEGY", "fast"),
            ("REWARM_READ_FILES", "maybe"),
        ];
        for pair in bad {
            let (settings, notes) = with(&[pair]);
            assert_eq!(settings, Settings::from_lookup(|_| None).0, "{pair:?}");
            assert_eq!(notes.len(), 1);
            assert!(
                notes[0].starts_with(&format!("{}={} ignored", pair.0, pair.1)),
                "{notes:?}"
            );
            let error = Settings::strict(|name| find(&[pair], name)).unwrap_err();
            assert!(error.to_string().contains("must be"), "{error}");
        }
    }

    #[test]
    fn an_empty_value_counts_as_not_given() {
        let (settings, notes) = with(&[("CRIU_CUDA_STREAMS", ""), ("REWARM_STATS", "")]);
        assert_eq!((settings, notes.len()), (with(&[]).0, 0));
    }
}
