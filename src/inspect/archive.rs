//! An archive, from its beginning to its end.

use super::pages::pages_of;
use super::report::{Archive, Report};
use super::roles::{folder_of, leads_out, plain, why_refused};
use super::survey::Survey;
use super::tar::{Member, Stream, Tar, TarError, What, fill};
use super::tree::is_in_memory;
use super::unpacked::{Compression, unpack};
use super::{InspectError, Options, limits, shown};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tells what is in an archive that podman exported.
///
/// # Errors
/// If it cannot be read, is no archive, or holds no checkpoint.
pub fn inspect_archive(file: File, path: &Path, options: &Options) -> Result<Report, InspectError> {
    let name = shown(path.as_os_str().as_bytes());
    let is_in_memory = is_in_memory(&file);
    inspect(file, &name, is_in_memory, options)
}

/// The same of an archive that comes through a pipe, with a name for messages.
///
/// # Errors
/// As [`inspect_archive`].
pub fn inspect_stream(
    from: impl Read,
    name: &str,
    options: &Options,
) -> Result<Report, InspectError> {
    inspect(from, &shown(name.as_bytes()), false, options)
}

fn inspect(
    from: impl Read,
    name: &str,
    is_in_memory: bool,
    options: &Options,
) -> Result<Report, InspectError> {
    let done = &options.done;
    let (compression, content) = unpack(from, done).map_err(InspectError::io(name, "read it"))?;
    if let Compression::Other(with) = compression {
        let name = name.to_owned();
        return Err(InspectError::Compression { name, with });
    }
    let mut survey = Survey::new(options, true);
    let mut tar = Tar::new(Stream(content));
    let mut members = 0u64;
    loop {
        match tar.next() {
            Ok(Some(member)) => {
                members += 1;
                take(&mut survey, &mut tar, &member);
            }
            Ok(None) => break,
            Err(error) if members == 0 => {
                return Err(InspectError::NoArchive(
                    name.to_owned(),
                    shown(error.to_string().as_bytes()),
                ));
            }
            Err(error) => {
                survey.problems.add(b"", at(&error, members));
                return finish(survey, name, compression, done, is_in_memory);
            }
        }
    }
    if let Err(what) = behind(tar.into_rest()) {
        survey
            .problems
            .add(b"", format_args!("behind the archive's end: {what}"));
    }
    finish(survey, name, compression, done, is_in_memory)
}

fn at(error: &TarError, members: u64) -> String {
    format!("the archive is damaged behind {members} entries: {error}")
}

/// Reads to the end, so that checksums of the whole are seen. There are zeros, as
/// archives are made in blocks.
fn behind(rest: impl Read) -> Result<(), String> {
    let mut rest = rest.take(limits::BEHIND);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match fill(&mut rest, &mut buffer) {
            Err(error) => return Err(error.to_string()),
            Ok(0) if rest.limit() == 0 => return Err("more than 64 MiB".into()),
            Ok(0) => return Ok(()),
            Ok(more) if buffer[..more].iter().all(|byte| *byte == 0) => {}
            Ok(_) => return Err("something else: another archive, or no part of one".into()),
        }
    }
}

fn finish(
    mut survey: Survey,
    name: &str,
    compression: Compression,
    done: &AtomicU64,
    is_in_memory: bool,
) -> Result<Report, InspectError> {
    let archive = Archive {
        compression: compression.name(),
        bytes: done.load(Relaxed),
    };
    let found = survey.counted();
    let pages = pages_of(&found.counts, found.counts.pages);
    survey.finish(name, Some(archive), (pages, found.density), is_in_memory)
}

/// Takes an entry.
fn take<R: Read>(survey: &mut Survey, tar: &mut Tar<Stream<R>>, member: &Member) {
    let path = &member.path;
    if let Some(why) = why_refused(path) {
        survey
            .problems
            .add(path, format_args!("{why}: it is not looked into"));
        return;
    }
    let path = plain(path);
    match &member.what {
        What::File => survey.add(&path, member.bytes, &mut tar.content()),
        What::Folder => {}
        What::Link(target) if leads_out(folder_of(&path), target) => {
            survey.problems.add(
                &path,
                format_args!("a link out of the archive, to {}", shown(target)),
            );
        }
        What::HardLink(target) if why_refused(target).is_some() => {
            survey.problems.add(
                &path,
                format_args!("a link out of the archive, to {}", shown(target)),
            );
        }
        What::Link(_) | What::HardLink(_) => survey
            .not_looked_into
            .add(&path, "a link, which is not followed"),
        What::Sparse => survey.pass_over(&path, "an entry with holes: pack it without --sparse"),
        What::Other(kind) => survey.not_looked_into.add(&path, kind),
    }
}
