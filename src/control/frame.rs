//! Messages on a stream: a length (32 bits, little endian), then that many
//! bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// Longest message, in bytes.
pub const MAX_FRAME: u32 = 1 << 20;

/// A message that did not make it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, ended early or took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The message is longer than [`MAX_FRAME`].
    #[error("a message of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(u64),
    /// The bytes are not the message expected.
    #[error("not a valid message: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Writes one message.
///
/// # Errors
/// If it is too long or the stream fails.
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = (bytes.len() - 4) as u64;
    match u32::try_from(length) {
        Ok(short) if short <= MAX_FRAME => bytes[..4].copy_from_slice(&short.to_le_bytes()),
        _ => return Err(FrameError::TooLong(length)),
    }
    Ok(stream.write_all(&bytes)?)
}

/// Reads the bytes of one message. Memory is taken as bytes arrive, whatever
/// length was announced.
///
/// # Errors
/// If it is too long or the stream fails or ends early.
pub fn read_bytes(stream: &mut impl Read) -> Result<Vec<u8>, FrameError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length.into()));
    }
    let mut bytes = Vec::new();
    stream.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}

/// Reads one message.
///
/// # Errors
/// As [`read_bytes`], and if the message is not of the type.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(&read_bytes(stream)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back() {
        let mut bytes = Vec::new();
        write(&mut bytes, &["a", "b"]).unwrap();
        write(&mut bytes, &7).unwrap();
        let mut stream = bytes.as_slice();
        assert_eq!(read::<Vec<String>>(&mut stream).unwrap(), ["a", "b"]);
        assert_eq!(read::<u32>(&mut stream).unwrap(), 7);
        assert!(stream.is_empty());
    }

    #[test]
    fn a_message_that_is_too_long_is_neither_written_nor_read() {
        let long = "x".repeat(MAX_FRAME as usize);
        assert!(matches!(
            write(&mut Vec::new(), &long),
            Err(FrameError::TooLong(_))
        ));
        let mut announced = (MAX_FRAME + 1).to_le_bytes().to_vec();
        announced.extend([0; 64]);
        assert!(matches!(
            read_bytes(&mut announced.as_slice()),
            Err(FrameError::TooLong(_))
        ));
    }

    #[test]
    fn every_cut_of_a_message_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"hello").unwrap();
        for length in 0..bytes.len() {
            assert!(read::<String>(&mut &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn garbage_is_malformed() {
        let bytes = b"\x03\x00\x00\x00}}}";
        assert!(matches!(
            read::<String>(&mut &bytes[..]),
            Err(FrameError::Malformed(_))
        ));
    }
}
