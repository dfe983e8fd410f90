//! The little of protobuf's encoding that images need: numbers of fields that are
//! not nested. Other fields are passed over.

use super::ImageReason;

/// The fields of a message that are varints: number and value, in order.
pub(super) fn numbers(message: &[u8]) -> impl Iterator<Item = Result<(u32, u64), ImageReason>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match field(&mut rest) {
                Some(None) => {}
                Some(Some(found)) => return Some(Ok(found)),
                None => {
                    rest = &[];
                    return Some(Err(ImageReason::Malformed));
                }
            }
        }
        None
    })
}

/// The next field, if it is a varint; the outer `None` if there is none.
fn field(rest: &mut &[u8]) -> Option<Option<(u32, u64)>> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
    let skip = match tag & 7 {
        0 => return Some(Some((number, varint(rest)?))),
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    *rest = rest.get(skip..)?;
    Some(None)
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
