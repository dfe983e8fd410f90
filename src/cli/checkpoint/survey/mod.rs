//! What there is, and everything that would make a checkpoint fail.

mod gpus;
mod machine;

use super::CheckpointArgs;
use anyhow::{Result, bail};
use gpus::{GpuProcess, may_use_cuda};
use machine::{network_lock, others_folder, others_limits, room};
use rewarm::checkpoint::tree::{Access, Descriptor, Facts, Kind, Member, Tree};
use rewarm::checkpoint::{Options, Place, Problem, cut_pipes, has_outer_streams, obstacles};
use rewarm::control::Process;
use rewarm::criu::tool::Criu;
use rewarm::driver::{CheckpointDriver, CheckpointError};
use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// All that is known before anything is done.
pub(super) struct Survey {
    pub(super) tree: Tree,
    pub(super) gpus: Vec<GpuProcess>,
    /// Only where there is something on a GPU.
    pub(super) driver: Option<CheckpointDriver>,
    pub(super) criu: Criu,
    pub(super) options: Options,
    pub(super) place: Place,
    /// What somebody should know who reads the result.
    pub(super) notes: Vec<String>,
}

impl Survey {
    /// # Errors
    /// Everything that stands in the way, at once.
    pub(super) fn take(args: &CheckpointArgs, folder: &Path) -> Result<Survey> {
        let root = Process::find(args.pid)?;
        let tree = look_at_tree(root.pid)?;
        let mut problems = obstacles(&tree, args.tree);
        let (place, found) = Place::find(folder, args.replace);
        problems.extend(found);
        problems.extend(others_folder(&place, &tree));
        let criu = machine::criu(args, &mut problems);
        let (driver, gpus) = gpus::find(&tree, &mut problems);
        let mut notes = cut_pipes(&tree);
        room(&place, &tree, &gpus, &mut problems, &mut notes);
        problems.extend(others_limits(&tree));
        let mut options = Options::for_tree(&tree);
        if args.leave_running && options.both.iter().any(|one| one == "--link-remap") {
            problems.push(Problem::new(
                "a file that is open was removed, but has other names: CRIU forgets them if the processes go on",
                "Leave --leave-running out, or have the process close the file.",
            ));
        }
        if let Some(criu) = &criu {
            match network_lock(&tree, criu) {
                Ok(lock) => options.dump.extend(lock),
                Err(problem) => problems.push(problem),
            }
        }
        if args.leave_running {
            notes.extend(growing(&tree));
        }
        let Some(criu) = criu.filter(|_| problems.is_empty()) else {
            bail!(told(args.pid, &problems));
        };
        Ok(Survey {
            tree,
            gpus,
            driver,
            criu,
            options,
            place,
            notes,
        })
    }

    /// Whether others use CUDA meanwhile than those that were found: a model that is
    /// still loading, a child that was just started.
    ///
    /// # Errors
    /// Which process does.
    pub(super) fn still_holds(&self) -> Result<()> {
        let Some(driver) = &self.driver else {
            return Ok(());
        };
        let tree = Tree::look(self.tree.root().pid)?;
        let living = tree.members.iter().filter(|one| !one.facts.is_zombie());
        for pid in living.map(Member::pid).filter(|pid| !self.knows(*pid)) {
            if !matches!(driver.state(pid), Err(CheckpointError::NotCuda { .. })) && is_there(pid) {
                bail!("process {pid} began to use CUDA meanwhile: try again");
            }
        }
        Ok(())
    }

    /// The same of the tree as it stands still: only what is mapped and open tells.
    ///
    /// # Errors
    /// Which process may have begun to use CUDA.
    pub(super) fn holds_for(&self, tree: &Tree) -> Result<()> {
        let is_new = |one: &&Member| !self.tree.has(one.pid()) && !one.facts.is_zombie();
        match tree
            .members
            .iter()
            .filter(is_new)
            .find(|one| may_use_cuda(one))
        {
            Some(member) => bail!("process {} was started meanwhile: try again", member.pid()),
            None => Ok(()),
        }
    }

    /// Whether a process is one of those that use CUDA.
    pub(super) fn knows(&self, pid: u32) -> bool {
        self.gpus.iter().any(|gpu| gpu.process.pid == pid)
    }

    /// The processes that write snapshots, with their users where those are others.
    pub(super) fn snapshots(&self) -> Vec<(u32, Option<u32>)> {
        let freezable = self.gpus.iter().filter(|gpu| gpu.freezable.is_some());
        freezable
            .map(|gpu| (gpu.process.pid, gpu.process.foreign_owner()))
            .collect()
    }
}

/// The tree, without the connections of those who ask a process for its state: they
/// are gone a moment later.
fn look_at_tree(pid: u32) -> Result<Tree> {
    const LOOKS: u32 = 8;
    const PAUSE: Duration = Duration::from_millis(7);
    let mut look = 1;
    loop {
        let tree = Tree::look(pid)?;
        if look == LOOKS || !has_outer_streams(&tree) {
            return Ok(tree);
        }
        thread::sleep(PAUSE * look);
        look += 1;
    }
}

/// Every problem once, with the processes that have it.
fn told(pid: u32, problems: &[Problem]) -> String {
    let mut text = format!("process {pid} cannot be checkpointed:");
    for problem in problems {
        let who = problem.pid.map(|pid| format!("process {pid} "));
        let Problem { what, advice, .. } = problem;
        text += &format!("\n  {}{what}.\n    {advice}", who.unwrap_or_default());
    }
    text
}

/// Files that processes who go on may make longer, which CRIU does not take at the
/// restore.
fn growing(tree: &Tree) -> Option<String> {
    let is_one = |one: &&Descriptor| one.access == Access::Write && one.kind == Kind::File;
    let written = tree.descriptors().map(|(_, one)| one).filter(is_one);
    let names: BTreeSet<_> = written.map(|one| one.link.display().to_string()).collect();
    (!names.is_empty()).then(|| {
        let names: Vec<_> = names.into_iter().collect();
        format!(
            "if the processes make these files longer, a restore takes --truncate-files (files that are opened for appending may grow): {}",
            names.join(", ")
        )
    })
}

fn is_there(pid: u32) -> bool {
    Facts::look(pid).is_ok_and(|facts| !facts.is_zombie())
}
