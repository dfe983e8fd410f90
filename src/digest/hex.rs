//! 128 bits as 32 hexadecimal digits, in lower case, with `#[serde(with)]`.

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serializer};
use std::borrow::Cow;

pub(crate) fn serialize<S: Serializer>(bits: &u128, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{bits:032x}"))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
    let text = Cow::<str>::deserialize(from)?;
    parse(&text).ok_or_else(|| {
        D::Error::invalid_value(
            Unexpected::Str(&text),
            &"32 hexadecimal digits in lower case",
        )
    })
}

fn parse(text: &str) -> Option<u128> {
    let is_digit = |letter: u8| letter.is_ascii_digit() || (b'a'..=b'f').contains(&letter);
    if text.len() != 32 || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}
