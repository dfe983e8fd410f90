//! Archives as podman writes them: plain, gzip or zstd.

use super::limits;
use flate2::read::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Another one, by its tool.
    Other(&'static str),
}

impl Compression {
    pub(super) fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Other(tool) => tool,
        }
    }

    /// By the first bytes of the file.
    fn of(begin: &[u8]) -> Compression {
        const KINDS: [(&[u8], Compression); 6] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\xfd7zXZ", Compression::Other("xz")),
            (b"BZh", Compression::Other("bzip2")),
            (b"\x04\x22\x4d\x18", Compression::Other("lz4")),
            (b"LZIP", Compression::Other("lzip")),
        ];
        let is_it = |kind: &&(&[u8], Compression)| begin.starts_with(kind.0);
        let known = KINDS.iter().find(is_it).map(|kind| kind.1);
        // zstd may begin with a frame to be skipped.
        let skipped = matches!(begin, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
        known.unwrap_or(match skipped {
            true => Compression::Zstd,
            false => Compression::None,
        })
    }
}

/// What is in a file, compressed or not.
pub(super) fn unpack<'a>(
    from: impl Read + 'a,
    done: &'a AtomicU64,
) -> io::Result<(Compression, Box<dyn Read + 'a>)> {
    /// More than the longest magic number, so that what is read behind it is aligned,
    /// and larger pieces go around the buffer.
    const BUFFER: usize = 64 << 10;
    let mut begin = Vec::new();
    let mut from = Counted { from, done };
    (&mut from).take(BUFFER as u64).read_to_end(&mut begin)?;
    let compression = Compression::of(&begin);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(begin).chain(from));
    Ok((compression, decoder(compression, whole)?))
}

fn decoder<'a>(
    compression: Compression,
    from: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None | Compression::Other(_) => Box::new(from),
        Compression::Gzip => Box::new(MultiGzDecoder::new(from)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(from)?;
            decoder.window_log_max(limits::WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// Tells how much was read.
struct Counted<'a, R> {
    from: R,
    done: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let bytes = self.from.read(to)?;
        self.done.fetch_add(bytes as u64, Relaxed);
        Ok(bytes)
    }
}
