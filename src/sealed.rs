//! JSON behind a first line that says how long it is and has its digest.
//!
//! That line can be written in one way only, so every changed byte shows. Both kinds
//! of manifests are such texts.

use crate::digest::digest;
use serde::de::{DeserializeOwned, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;

/// The first line is at most so long, in bytes.
const MOST_HEADER_BYTES: usize = 128;

/// A kind of text.
pub(crate) struct Seal {
    /// The first key of the first line, which names the kind.
    pub(crate) key: &'static str,
    /// The version of the format that is written and read.
    pub(crate) format: u64,
    /// A whole text is at most so long, in bytes.
    pub(crate) most_bytes: u64,
}

/// Why a text cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It is not as it was written: in what way.
    Damaged(String),
    /// It has another version of the format.
    Format(u64),
}

impl Seal {
    /// The whole text of a value.
    ///
    /// # Errors
    /// In words, if it would be too long.
    pub(crate) fn write(&self, value: &impl Serialize) -> Result<Vec<u8>, String> {
        let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        let mut text = self.line(&body).into_bytes();
        text.extend_from_slice(&body);
        if text.len() as u64 > self.most_bytes {
            return Err(format!(
                "the manifest would take {} bytes, and {} is the most",
                text.len(),
                self.most_bytes
            ));
        }
        Ok(text)
    }

    /// Understands a whole text.
    pub(crate) fn read<T: DeserializeOwned>(&self, text: &[u8]) -> Result<T, Broken> {
        let damaged = |message: &str| Broken::Damaged(message.to_owned());
        let head = &text[..text.len().min(MOST_HEADER_BYTES)];
        let line = head.iter().position(|byte| *byte == b'\n');
        let (line, body) = text.split_at(line.ok_or_else(|| damaged("no first line"))? + 1);
        let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line)
            .map_err(|error| Broken::Damaged(format!("the first line: {error}")))?;
        let format = header.get(self.key).and_then(serde_json::Value::as_u64);
        match format {
            None => return Err(damaged(&format!("the first line has no {}", self.key))),
            Some(format) if format != self.format => return Err(Broken::Format(format)),
            Some(_) => {}
        }
        if self.line(body).as_bytes() != line {
            return Err(damaged("its length, digest or first line is wrong"));
        }
        serde_json::from_slice(body).map_err(|error| Broken::Damaged(error.to_string()))
    }

    fn line(&self, body: &[u8]) -> String {
        let Seal { key, format, .. } = self;
        let (bytes, digest) = (body.len(), digest(body));
        format!("{{\"{key}\":{format},\"bytes\":{bytes},\"digest\":\"{digest}\"}}\n")
    }
}

/// A list of at most `MOST`, however long the text is.
pub(crate) fn bounded<'de, const MOST: usize, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Bounded<const MOST: usize, T>(PhantomData<T>);

    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for Bounded<MOST, T> {
        type Value = Vec<T>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(to, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(next) = from.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom(format!("a list of more than {MOST}")));
                }
                list.push(next);
            }
            Ok(list)
        }
    }

    from.deserialize_seq(Bounded::<MOST, T>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal {
        key: "test",
        format: 2,
        most_bytes: 200,
    };

    #[test]
    fn every_changed_byte_shows() {
        let text = SEAL.write(&"value").unwrap();
        assert_eq!(SEAL.read::<String>(&text).unwrap(), "value");
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(SEAL.read::<String>(&changed).is_err(), "byte {at}");
            assert!(SEAL.read::<String>(&text[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn other_kinds_and_versions_are_told() {
        let of = |key, format| Seal {
            key,
            format,
            ..SEAL
        };
        let text = of("test", 3).write(&1).unwrap();
        assert_eq!(SEAL.read::<u8>(&text), Err(Broken::Format(3)));
        let text = of("other", 2).write(&1).unwrap();
        assert!(matches!(SEAL.read::<u8>(&text), Err(Broken::Damaged(_))));
        assert!(SEAL.write(&"x".repeat(300)).is_err());
    }
}
