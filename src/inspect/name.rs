//! Names of others, fit to be shown: a terminal obeys nothing in them.

use std::fmt::Write;

/// Longest name that is shown whole, in bytes.
const LONGEST: usize = 300;

/// A name, short, with control characters, what changes the direction of writing, and
/// what is not UTF-8 escaped as in a program's text: `\n`, `\u{1b}`, `\xff`.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    let half = LONGEST / 2;
    if name.len() > LONGEST {
        add(&name[..half], &mut text);
        text.push('…');
        add(&name[name.len() - half..], &mut text);
    } else {
        add(name, &mut text);
    }
    text
}

fn add(name: &[u8], to: &mut String) {
    for part in name.utf8_chunks() {
        for letter in part.valid().chars() {
            match is_plain(letter) {
                true => to.push(letter),
                false => to.extend(letter.escape_default()),
            }
        }
        for byte in part.invalid() {
            let _ = write!(to, "\\x{byte:02x}");
        }
    }
}

/// Whether a letter neither commands a terminal nor hides or moves other letters.
fn is_plain(letter: char) -> bool {
    let is_hidden = matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !letter.is_control() && !is_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_is_obeyed() {
        assert_eq!(shown("größe.img".as_bytes()), "größe.img");
        assert_eq!(shown(b"a\x1b[2J\n\xff"), "a\\u{1b}[2J\\n\\xff");
        assert_eq!(shown("\u{202e}gnp".as_bytes()), "\\u{202e}gnp");
        let long = shown(&[b'a'; 5000]);
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(shown("é".repeat(5000).as_bytes()).contains('…'));
    }
}
