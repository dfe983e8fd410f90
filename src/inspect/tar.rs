//! Tar archives from the beginning to the end, in bounded memory.
//!
//! The crate `tar` understands the headers. It would read names of any length into
//! memory, so what stands before an entry (names of GNU, records of POSIX) is read
//! here, up to a bound.

use super::limits;
use std::io::{self, Read, Seek, SeekFrom};
use tar::{EntryType, Header};

/// Headers and contents are padded to this, in bytes.
const BLOCK: u64 = 512;

/// Something to read that can be gone past.
pub(super) trait Source: Read {
    /// Goes past so many bytes. Returns how many there were.
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        io::copy(&mut self.take(bytes), &mut io::sink())
    }
}

/// Anything that can only be read.
pub(super) struct Stream<R>(pub(super) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl<R: Read> Source for Stream<R> {}

impl Source for std::fs::File {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let (at, end) = (self.stream_position()?, self.metadata()?.len());
        let bytes = bytes.min(end.saturating_sub(at));
        self.seek(SeekFrom::Start(at + bytes))?;
        Ok(bytes)
    }
}

/// A kind of entry that no standard has.
const UNKNOWN: &str = "a kind that is not known";

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum TarError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it ends in the middle of an entry")]
    Cut,
    #[error("it ends without the mark of its end: it is cut off, or still being written")]
    NoEnd,
    #[error("no header of an entry: its checksum is wrong")]
    Checksum,
    #[error("a header cannot be understood: {0}")]
    Header(String),
    #[error("{0} bytes before an entry are more than a name takes")]
    TooLong(u64),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    File,
    /// A file with holes that are left out, of which the content is not looked at.
    Sparse,
    Folder,
    /// To where.
    Link(Vec<u8>),
    HardLink(Vec<u8>),
    /// A device, a pipe and the like.
    Other(&'static str),
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) what: What,
    /// Length in the archive, in bytes.
    pub(super) bytes: u64,
}

/// Names and numbers that stand before an entry, as they are too long for its header.
#[derive(Default)]
struct Before {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
    is_sparse: bool,
}

/// An archive.
pub(super) struct Tar<S> {
    from: S,
    /// What is left of the entry's content, and of the padding behind it.
    left: u64,
    padding: u64,
}

impl<S: Source> Tar<S> {
    pub(super) fn new(from: S) -> Tar<S> {
        Tar {
            from,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the archive's end.
    pub(super) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut before = Before::default();
        loop {
            self.go_past()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let bytes = header.entry_size().map_err(header_error)?;
            match header.entry_type() {
                EntryType::GNULongName => before.path = Some(ended(self.extension(bytes)?)),
                EntryType::GNULongLink => before.link = Some(ended(self.extension(bytes)?)),
                EntryType::XHeader => before.add(&self.extension(bytes)?)?,
                // Of no entry in particular: no names.
                EntryType::XGlobalHeader => drop(self.extension(bytes)?),
                _ => return self.member(&header, before).map(Some),
            }
        }
    }

    /// The content of the entry that came last.
    pub(super) fn content(&mut self) -> Content<'_, S> {
        Content { of: self }
    }

    /// What comes behind the end.
    pub(super) fn into_rest(self) -> S {
        self.from
    }

    fn member(&mut self, header: &Header, before: Before) -> Result<Member, TarError> {
        let bytes = match before.bytes {
            Some(bytes) => bytes,
            None => header.entry_size().map_err(header_error)?,
        };
        let link = before
            .link
            .or_else(|| header.link_name_bytes().map(Into::into));
        let link = link.unwrap_or_default();
        let what = match header.entry_type() {
            EntryType::GNUSparse => {
                self.go_past_holes(header)?;
                What::Sparse
            }
            EntryType::Directory => What::Folder,
            EntryType::Symlink => What::Link(link),
            EntryType::Link => What::HardLink(link),
            EntryType::Char | EntryType::Block => What::Other("a device"),
            EntryType::Fifo => What::Other("a pipe"),
            EntryType::Regular | EntryType::Continuous if before.is_sparse => What::Sparse,
            EntryType::Regular | EntryType::Continuous => What::File,
            _ => What::Other(UNKNOWN),
        };
        let path = before
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        // The others are a header and nothing more, whatever it says of a length: so
        // does the archive's reader of podman.
        let has_content = matches!(what, What::File | What::Sparse | What::Other(UNKNOWN));
        let bytes = if has_content { bytes } else { 0 };
        self.begin(bytes);
        Ok(Member { path, what, bytes })
    }

    fn begin(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK;
    }

    /// Goes past what is left of an entry.
    fn go_past(&mut self) -> Result<(), TarError> {
        let left = std::mem::take(&mut self.left);
        let padding = std::mem::take(&mut self.padding);
        if self.from.skip(left)? != left || self.from.skip(padding)? != padding {
            return Err(TarError::Cut);
        }
        Ok(())
    }

    /// The next header; `None` if it marks the end.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        match fill(&mut self.from, header.as_mut_bytes())? {
            0 => return Err(TarError::NoEnd),
            BLOCK_BYTES => {}
            _ => return Err(TarError::Cut),
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The checksum is of the header with blanks in its place.
        let is_own = |at: usize| (148..156).contains(&at);
        let sum: u32 = (bytes.iter().enumerate())
            .map(|(at, byte)| if is_own(at) { 32 } else { u32::from(*byte) })
            .sum();
        match header.cksum() {
            Ok(wanted) if wanted == sum => Ok(Some(header)),
            _ => Err(TarError::Checksum),
        }
    }

    /// What stands before an entry.
    fn extension(&mut self, bytes: u64) -> Result<Vec<u8>, TarError> {
        if bytes > limits::EXTENSION {
            return Err(TarError::TooLong(bytes));
        }
        self.begin(bytes);
        let mut found = Vec::new();
        self.content().read_to_end(&mut found)?;
        match found.len() as u64 == bytes {
            true => Ok(found),
            false => Err(TarError::Cut),
        }
    }

    /// Where the holes are (GNU): blocks behind the header.
    fn go_past_holes(&mut self, header: &Header) -> Result<(), TarError> {
        const GOES_ON: usize = 504;
        let mut goes_on = header.as_gnu().is_some_and(|gnu| gnu.is_extended());
        while goes_on {
            let mut block = [0; BLOCK_BYTES];
            if fill(&mut self.from, &mut block)? != BLOCK_BYTES {
                return Err(TarError::Cut);
            }
            goes_on = block[GOES_ON] != 0;
        }
        Ok(())
    }
}

const BLOCK_BYTES: usize = BLOCK as usize;

/// The content of an entry.
pub(super) struct Content<'a, S> {
    of: &'a mut Tar<S>,
}

impl<S: Source> Read for Content<'_, S> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = (to.len() as u64).min(self.of.left) as usize;
        // zstd takes being asked for nothing for an error.
        if most == 0 {
            return Ok(0);
        }
        let bytes = self.of.from.read(&mut to[..most])?;
        if bytes == 0 {
            let text = "the archive ends in the middle of an entry";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.of.left -= bytes as u64;
        Ok(bytes)
    }
}

impl<S: Source> Source for Content<'_, S> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let skipped = self.of.from.skip(bytes.min(self.of.left))?;
        self.of.left -= skipped;
        Ok(skipped)
    }
}

impl Before {
    /// Takes the records of POSIX, of which each begins with its length.
    fn add(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        while !records.is_empty() {
            let record = record(&mut records);
            let (key, value) = record.ok_or_else(|| TarError::Header("a bad record".into()))?;
            let number = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok())
            };
            match key {
                b"path" | b"GNU.sparse.name" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => {
                    let bytes = number();
                    let bytes = bytes.ok_or_else(|| TarError::Header("a bad size".into()))?;
                    self.bytes = Some(bytes);
                }
                _ => {}
            }
            self.is_sparse |= key.starts_with(b"GNU.sparse.");
        }
        Ok(())
    }
}

/// Key and value of the first record: `LENGTH KEY=VALUE\n`.
fn record<'a>(records: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let blank = records.iter().position(|byte| *byte == b' ')?;
    let length = std::str::from_utf8(&records[..blank]).ok()?;
    let length: usize = length.parse().ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    *records = &records[length..];
    Some((&record[..equals], &record[equals + 1..]))
}

/// Names end at the first zero.
fn ended(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn header_error(error: io::Error) -> TarError {
    TarError::Header(super::shown(error.to_string().as_bytes()))
}

/// Reads as many bytes as there are, up to the length.
pub(super) fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < to.len() {
        match from.read(&mut to[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
