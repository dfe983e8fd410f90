//! The little of protobuf's encoding that images need.

use super::ImageReason;
use std::ops::Range;

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) value: Value,
    /// Where in the message the value is.
    pub(super) at: Range<usize>,
}

/// What a field has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// A message, or other bytes.
    Bytes,
    /// A number of fixed length.
    Fixed,
}

/// The fields of a message, in order.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field, ImageReason>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= message.len() {
            return None;
        }
        let found = field(message, at);
        at = found.as_ref().map_or(message.len(), |found| found.at.end);
        Some(found.ok_or(ImageReason::Malformed))
    })
}

/// The fields of a message that are varints: number and value, in order.
pub(super) fn numbers(message: &[u8]) -> impl Iterator<Item = Result<(u32, u64), ImageReason>> {
    fields(message).filter_map(|field| match field {
        Ok(Field {
            number,
            value: Value::Number(value),
            ..
        }) => Some(Ok((number, value))),
        Ok(_) => None,
        Err(reason) => Some(Err(reason)),
    })
}

fn field(message: &[u8], begin: usize) -> Option<Field> {
    let mut rest = message.get(begin..)?;
    let tag = varint(&mut rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
    let mut start = message.len() - rest.len();
    let (value, bytes) = match tag & 7 {
        0 => {
            let value = varint(&mut rest)?;
            (Value::Number(value), message.len() - rest.len() - start)
        }
        1 => (Value::Fixed, 8),
        2 => {
            let bytes = usize::try_from(varint(&mut rest)?).ok()?;
            start = message.len() - rest.len();
            (Value::Bytes, bytes)
        }
        5 => (Value::Fixed, 4),
        _ => return None,
    };
    let at = start..start.checked_add(bytes)?;
    message.get(at.clone())?;
    Some(Field { number, value, at })
}

/// A number of up to 64 bits in groups of 7, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
