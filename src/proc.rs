//! Who a process is, as `/proc` tells, see proc_pid_stat(5) and proc_pid_status(5).

use std::path::Path;
use std::{fs, io};

/// What `/proc/PID/stat` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its name, which may hold anything.
    pub name: String,
    /// Its state's letter, such as `R` or `Z`.
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its controlling terminal, 0 without one.
    pub terminal: u64,
    /// Its flags, see `PF_EXITING` and others in `linux/sched.h`.
    pub flags: u64,
    /// When it began, in clock ticks since the system did.
    pub start_time: u64,
}

impl Stat {
    /// Looks at a process.
    ///
    /// # Errors
    /// If it is not there.
    pub fn of(pid: u32) -> io::Result<Stat> {
        Stat::read(format!("/proc/{pid}/stat").as_ref())
    }

    /// Reads a file of that kind: threads have one, too.
    ///
    /// # Errors
    /// If it is not there.
    pub fn read(path: &Path) -> io::Result<Stat> {
        let text = fs::read(path)?;
        Stat::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| io::Error::other(format!("{} cannot be understood", path.display())))
    }

    fn parse(text: &str) -> Option<Stat> {
        let (begin, rest) = text.rsplit_once(')')?;
        let (_, name) = begin.split_once('(')?;
        let fields: Vec<_> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
        Some(Stat {
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: number(1)? as u32,
            group: number(2)? as u32,
            session: number(3)? as u32,
            terminal: number(4)? as u64,
            flags: number(6)? as u64,
            start_time: number(19)? as u64,
        })
    }

    /// Whether it has ended, and its parent has not asked for it yet.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// A line of `/proc/PID/status`, without its name: all that is behind `Uid:`.
pub fn status_line(pid: u32, name: &str) -> Option<String> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    line_of(&String::from_utf8_lossy(&status), name).map(str::to_owned)
}

/// The same of a text.
pub fn line_of<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// The numbers that a folder has as names, in order: processes, threads, descriptors.
pub fn numbers_in(folder: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// Every process that can be seen, with its parent.
pub fn parents() -> Vec<(u32, u32)> {
    let pids = numbers_in("/proc").into_iter();
    pids.filter_map(|pid| Some((pid, Stat::of(pid).ok()?.parent)))
        .collect()
}

/// A process and its descendants among all (pid, parent), parents first.
pub fn descendants(pid: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = parents.iter().filter(|entry| entry.1 == parent);
        let fresh: Vec<_> = children
            .map(|entry| entry.0)
            .filter(|child| !found.contains(child))
            .collect();
        found.extend(fresh);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "7 (a) S 9 (b)) R 5 6 4 34816 6 4194304 0 0 0 0 0 0 0 0 20 0 1 0 777 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((&*stat.name, stat.state), ("a) S 9 (b)", 'R'));
        assert_eq!((stat.parent, stat.group, stat.session), (5, 6, 4));
        assert_eq!((stat.terminal, stat.flags), (34816, 4_194_304));
        assert_eq!(stat.start_time, 777);
        for broken in ["7 (sh", "", "7 (sh) R 5"] {
            assert_eq!(Stat::parse(broken), None);
        }
    }

    #[test]
    fn descendants_come_behind_their_parents_and_once() {
        let parents = [(1, 0), (2, 1), (3, 9), (4, 2), (5, 1), (9, 4), (7, 7)];
        assert_eq!(descendants(2, &parents), [2, 4, 9, 3]);
        assert_eq!(descendants(7, &parents), [7]);
        assert_eq!(descendants(8, &parents), [8]);
    }

    #[test]
    fn this_process_is_a_child_of_its_parent() {
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        assert!(parents().contains(&(own, parent)));
        let stat = Stat::of(own).unwrap();
        assert!(stat.parent == parent && stat.start_time > 0 && !stat.has_ended());
        let told = status_line(own, "Tgid:").unwrap();
        assert_eq!(told.trim(), own.to_string());
        assert_eq!(status_line(own, "No such:"), None);
    }
}
