//! JSON from anywhere: no key twice, and messages that a terminal can show.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

/// Longest text of others that goes into a message, in characters.
const LONGEST: usize = 200;

/// Text of others, fit for a message: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|letter| {
            let control = letter.is_control();
            let escaped = control.then(|| letter.escape_default());
            escaped
                .into_iter()
                .flatten()
                .chain((!control).then_some(letter))
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// What is wrong with a text in JSON, and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> JsonError {
        JsonError(shown(&error.to_string()))
    }
}

/// An object without the same key twice, in its own order.
pub(super) struct Entries<V>(pub(super) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Object<V> {
            type Value = Entries<V>;

            fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<V>, A::Error> {
                let mut entries = Vec::new();
                let mut keys = Keys::default();
                while let Some(key) = keys.next(&mut map)? {
                    entries.push((key, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// The keys of an object, each at most once.
#[derive(Default)]
pub(super) struct Keys(HashSet<String>);

impl Keys {
    /// The next one.
    pub(super) fn next<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
    ) -> Result<Option<String>, A::Error> {
        let Some(key) = map.next_key::<String>()? else {
            return Ok(None);
        };
        if !self.0.insert(key.clone()) {
            let twice = format!("{} is there twice", shown(&key));
            return Err(serde::de::Error::custom(twice));
        }
        Ok(Some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_short_and_harmless() {
        assert_eq!(
            shown("model.\u{1b}[2Jweight\n"),
            "model.\\u{1b}[2Jweight\\n"
        );
        assert_eq!(shown("größe"), "größe");
        assert_eq!(shown(&"a".repeat(5000)).chars().count(), LONGEST + 1);
    }
}
