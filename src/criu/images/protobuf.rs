//! The little of protobuf's encoding that images need: numbers, and messages within
//! messages. Other fields are passed over.

use super::ImageReason;

/// What a field is.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message that are varints: number and value, in order.
pub(super) fn numbers(message: &[u8]) -> impl Iterator<Item = Result<(u32, u64), ImageReason>> {
    fields(message).filter_map(|field| match field {
        Ok((number, Field::Number(value))) => Some(Ok((number, value))),
        Ok(_) => None,
        Err(reason) => Some(Err(reason)),
    })
}

/// The fields of a message that have this number and are messages themselves.
pub(super) fn messages(
    message: &[u8],
    wanted: u32,
) -> impl Iterator<Item = Result<&[u8], ImageReason>> {
    fields(message).filter_map(move |field| match field {
        Ok((number, Field::Bytes(bytes))) if number == wanted => Some(Ok(bytes)),
        Ok(_) => None,
        Err(reason) => Some(Err(reason)),
    })
}

fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u32, Field<'_>), ImageReason>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let found = field(&mut rest);
        if found.is_none() {
            rest = &[];
        }
        Some(found.ok_or(ImageReason::Malformed))
    })
}

/// The next field, and its number.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u32, Field<'a>)> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => bytes(rest, 8).map(|_| Field::Other)?,
        2 => {
            let length = varint(rest)?;
            Field::Bytes(bytes(rest, length)?)
        }
        5 => bytes(rest, 4).map(|_| Field::Other)?,
        _ => return None,
    };
    Some((number, field))
}

fn bytes<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (bytes, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = behind;
    Some(bytes)
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
