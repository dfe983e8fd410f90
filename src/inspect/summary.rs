//! Everything that there is to tell, once all files were taken.

use super::density::Density;
use super::images::Set;
use super::memory::{Gpus, Summing, check_lengths};
use super::report::{Archive, Category, CriuStats, Kind, Large, Memory, Pages, Report};
use super::roles::{CATEGORIES, folder_of, join, name_of};
use super::survey::Survey;
use super::{InspectError, hints};
use crate::criu::images::Stats;
use std::collections::HashMap;

impl Survey<'_> {
    /// Everything that there is to tell.
    pub(super) fn finish(
        mut self,
        name: &str,
        archive: Option<Archive>,
        (pages, mut density): (Pages, Density),
        is_in_memory: bool,
    ) -> Result<Report, InspectError> {
        if !self.is_telling {
            return Err(InspectError::NoCheckpoint(name.to_owned()));
        }
        self.check_files();
        let kind = self.kind(name);
        let compression = archive.as_ref().map(|archive| archive.compression);
        self.facts.compression = compression.unwrap_or("none");
        self.facts.is_in_memory = is_in_memory;
        density.sort();
        let memory = self.memory(pages, &density);
        for found in self.gpu.values() {
            self.facts.add_gpu(found);
        }
        let hints = hints::of(&self.facts, &memory);
        let large = |(bytes, (what, name))| Large { bytes, what, name };
        let sizes = self.categories.values();
        Ok(Report {
            version: 1,
            path: name.to_owned(),
            kind,
            archive,
            whole: self.problems.count == 0,
            bytes: sizes.fold(0, |sum, one| sum.saturating_add(one.0)),
            files: self.categories.values().map(|one| one.1).sum(),
            categories: categories(&self.categories),
            memory,
            gpu: self.gpu.into_values().map(|found| found.gpu).collect(),
            largest: self.largest.into_sorted().into_iter().map(large).collect(),
            criu: self.sets.into_values().flat_map(statistics).collect(),
            hints,
            not_looked_into: self.not_looked_into.sorted(),
            problems: self.problems.sorted(),
        })
    }

    fn memory(&mut self, pages: Pages, density: &Density) -> Memory {
        let by_driver = self.checkpoint.take().map(|one| one.driver_only);
        let gpus = Gpus {
            frozen: self.gpu.values().map(|found| found.gpu.pid).collect(),
            by_driver: by_driver.into_iter().flatten().collect(),
        };
        let (largest, facts) = (&mut self.largest, &mut self.facts);
        let mut memory = Summing::new(self.options.top, largest, facts, &gpus, density);
        for (folder, set) in &self.sets {
            if !self.is_partial {
                check_lengths(folder, set, &mut self.problems);
            }
            memory.add(set);
        }
        memory.finish(pages)
    }

    fn kind(&self, name: &str) -> Kind {
        if self.checkpoint.is_some() {
            Kind::RewarmCheckpoint
        } else if self.sets.is_empty() {
            Kind::RewarmSnapshot
        } else if self.sets.keys().any(|folder| self.is_podman(folder, name)) {
            Kind::PodmanCheckpoint
        } else {
            Kind::CriuImages
        }
    }

    /// Whether a folder with images is podman's: `checkpoint`, beside the container's
    /// configuration. A bundle of runc has `config.json` alone, and is no `userdata`.
    fn is_podman(&self, folder: &[u8], name: &str) -> bool {
        let beside = |file: &[u8]| self.lengths.contains_key(&join(folder_of(folder), file));
        let is_userdata = || name.split('/').any(|part| part == "userdata");
        name_of(folder) == b"checkpoint"
            && (beside(b"config.dump")
                || beside(b"spec.dump")
                || beside(b"config.json") && is_userdata())
    }
}

fn statistics(set: Set) -> impl Iterator<Item = CriuStats> {
    let shown = |(path, Stats { dump, restore })| CriuStats {
        path,
        dump,
        restore,
    };
    set.stats.into_iter().map(shown)
}

fn categories(found: &HashMap<&'static str, (u64, u64)>) -> Vec<Category> {
    let known = CATEGORIES
        .iter()
        .filter_map(|name| Some((name, found.get(name)?)));
    let category = |(name, (bytes, files)): (&&'static str, &(u64, u64))| Category {
        name,
        bytes: *bytes,
        files: *files,
    };
    known.map(category).collect()
}
