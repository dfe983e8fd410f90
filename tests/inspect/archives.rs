//! Archives as podman exports them, and as nobody should.

use super::common::cli::{rewarm, text};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use tar::{Builder, EntryType, Header};

/// What compresses an archive.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The same, as podman does if it is not told otherwise.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The header of an entry, with its name as it is given.
pub fn header(name: &str, kind: EntryType, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_cksum();
    header
}

/// Adds a file.
pub fn add(to: &mut Builder<impl Write>, name: &str, content: &[u8]) {
    let header = header(name, EntryType::Regular, content.len() as u64);
    to.append(&header, content).unwrap();
}

/// An export with the images of a folder, a changed file system and a log.
pub fn export(images: &Path) -> Vec<u8> {
    let mut changed = Builder::new(Vec::new());
    add(&mut changed, "var/log/app.log", &[b'x'; 20_000]);
    add(&mut changed, "root/.cache/blob", &[1; 100_000]);
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "config.dump", b"{}");
    add(&mut tar, "spec.dump", b"{}");
    tar.append_dir_all("checkpoint", images).unwrap();
    add(&mut tar, "rootfs-diff.tar", &changed.into_inner().unwrap());
    add(&mut tar, "deleted.files", b"[]");
    tar.into_inner().unwrap()
}

/// `rewarm inspect --json` of an archive in a file.
pub fn inspect_file(bytes: &[u8], path: &Path) -> Output {
    fs::write(path, bytes).unwrap();
    let mut command = rewarm(&["inspect", "--json", text(path)]);
    command.output().unwrap()
}

/// The same through a pipe.
pub fn inspect_pipe(bytes: &[u8]) -> Output {
    let mut command = rewarm(&["inspect", "--json", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may be refused before all of it was read.
        scope.spawn(move || drop(to.write_all(bytes)));
        child.wait_with_output().unwrap()
    })
}

/// The report of a command, whatever its status.
pub fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
