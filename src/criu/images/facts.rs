//! Single facts out of images: names of files, of memfds and of processes.

use super::protobuf::{self, Value};
use super::stats::SERVICE;
use super::{COMMON, Entries, ImageError, ImageReason};
use std::io::Read;
use std::path::Path;

/// `INVENTORY_MAGIC`, which stands alone at the beginning of its image.
const INVENTORY: u32 = 0x5831_3116;

/// `FILES_MAGIC`, `REG_FILES_MAGIC`, `MEMFD_INODE_MAGIC` and `CORE_MAGIC`.
const FILES: u32 = 0x5630_3138;
const REGULAR_FILES: u32 = 0x5036_3636;
const MEMFDS: u32 = 0x4845_3499;
const CORE: u32 = 0x5505_3847;

/// Entries of these are shorter, in bytes: a path, or the registers of a thread.
const LONGEST: u32 = 1 << 20;

/// Gives `each` the id and the path of every regular file in `files.img`
/// (`images/fdinfo.proto`, `images/regfile.proto`).
///
/// # Errors
/// If the image cannot be read, or is none.
pub fn file_names(
    path: &Path,
    from: impl Read,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<(), ImageError> {
    const REGULAR: u32 = 3;
    let mut entries = Entries::begin(path, from, (COMMON, FILES), LONGEST)?;
    while let Some(entry) = entries.next()? {
        let mut regular = protobuf::messages(&entry, REGULAR);
        let read = regular.try_for_each(|file| file_name(file?, &mut each));
        read.map_err(|reason| entries.was_wrong(reason))?;
    }
    Ok(())
}

/// The same of `reg-files.img`, which older versions of CRIU write instead.
///
/// # Errors
/// If the image cannot be read, or is none.
pub fn old_file_names(
    path: &Path,
    from: impl Read,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<(), ImageError> {
    let mut entries = Entries::begin(path, from, (COMMON, REGULAR_FILES), LONGEST)?;
    while let Some(entry) = entries.next()? {
        file_name(&entry, &mut each).map_err(|reason| entries.was_wrong(reason))?;
    }
    Ok(())
}

fn file_name(file: &[u8], each: &mut impl FnMut(u64, &[u8])) -> Result<(), ImageReason> {
    if let (Some(id), Some(name)) = (number(file, 1)?, bytes(file, 6)?) {
        each(id, name);
    }
    Ok(())
}

/// Gives `each` the id of its shared memory and the name of every memfd in
/// `memfd.img` (`images/memfd.proto`).
///
/// # Errors
/// If the image cannot be read, or is none.
pub fn memfd_names(
    path: &Path,
    from: impl Read,
    mut each: impl FnMut(u64, &[u8]),
) -> Result<(), ImageError> {
    let mut entries = Entries::begin(path, from, (COMMON, MEMFDS), LONGEST)?;
    while let Some(entry) = entries.next()? {
        let mut read = || -> Result<(), ImageReason> {
            if let (Some(name), Some(id)) = (bytes(&entry, 1)?, number(&entry, 5)?) {
                each(id, name);
            }
            Ok(())
        };
        read().map_err(|reason| entries.was_wrong(reason))?;
    }
    Ok(())
}

/// The name of the process in a `core` image (`images/core.proto`); `None` for other
/// threads than its first.
///
/// # Errors
/// If the image cannot be read, or is none.
pub fn command_name(path: &Path, from: impl Read) -> Result<Option<Vec<u8>>, ImageError> {
    const TASK: u32 = 3;
    const NAME: u32 = 6;
    let mut entries = Entries::begin(path, from, (COMMON, CORE), LONGEST)?;
    let Some(entry) = entries.next()? else {
        return Err(ImageError::new(path, ImageReason::Cut));
    };
    let read = || match bytes(&entry, TASK)? {
        Some(task) => Ok(bytes(task, NAME)?.map(<[u8]>::to_owned)),
        None => Ok(None),
    };
    read().map_err(|reason| entries.was_wrong(reason))
}

/// Reads an image of any kind to its end, for whether it is whole.
///
/// # Errors
/// If it is not an image, or ends in the middle of an entry, or an entry is none.
pub fn check_frames(path: &Path, from: impl Read) -> Result<(), ImageError> {
    let (mut entries, magic) = Entries::any(path, from, LONGEST)?;
    match magic {
        (COMMON | SERVICE, _) => {}
        (INVENTORY, bytes) => entries.skip(bytes)?,
        _ => return Err(ImageError::new(path, ImageReason::Magic(magic.0, magic.1))),
    }
    while let Some(entry) = entries.next()? {
        for field in protobuf::fields(&entry) {
            field.map_err(|reason| entries.was_wrong(reason))?;
        }
    }
    Ok(())
}

fn number(message: &[u8], wanted: u32) -> Result<Option<u64>, ImageReason> {
    for field in protobuf::numbers(message) {
        match field? {
            (number, value) if number == wanted => return Ok(Some(value)),
            _ => {}
        }
    }
    Ok(None)
}

fn bytes(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, ImageReason> {
    for field in protobuf::fields(message) {
        let field = field?;
        if field.number == wanted && field.value == Value::Bytes {
            return Ok(Some(&message[field.at]));
        }
    }
    Ok(None)
}
