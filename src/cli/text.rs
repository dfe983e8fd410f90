//! Numbers and tables for people.

/// What another process said, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let is_plain = |letter: &char| !letter.is_control() || matches!(letter, '\n' | '\t');
    text.chars()
        .map(|letter| Some(letter).filter(is_plain).unwrap_or('\u{fffd}'))
        .collect()
}

/// A number of bytes, with a binary unit.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A number of bytes as an option has it: `20G`, `500M`, `1.5GiB`, `4096`. The units
/// are binary.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 9] = [
        ("kib", 10),
        ("mib", 20),
        ("gib", 30),
        ("tib", 40),
        ("k", 10),
        ("m", 20),
        ("g", 30),
        ("t", 40),
        ("", 0),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let split = |(unit, shift)| Some((lower.strip_suffix(unit)?.trim_end(), shift));
    let (number, shift) = UNITS.into_iter().find_map(split).unwrap_or((&lower, 0));
    let is_plain = number
        .chars()
        .all(|letter| letter.is_ascii_digit() || letter == '.');
    let value = number.parse::<f64>().ok().filter(|_| is_plain);
    let bytes = value.map(|value| value * (1u64 << shift) as f64);
    match bytes {
        Some(bytes) if (1.0..u64::MAX as f64).contains(&bytes) => Ok(bytes as u64),
        _ => Err("must be a size such as 20G, 500M or 1.5GiB".into()),
    }
}

/// A number of seconds as an option has it.
pub(super) fn parse_seconds(text: &str, most: f64) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.0..=most).contains(seconds))
        .ok_or_else(|| format!("must be a number of seconds, at most {most}"))
}

/// So many seconds, in the two units that fit.
pub(super) fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min {} s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

/// A part of a number of bytes, and how much of it that is.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return bytes(part);
    }
    let percent = 100.0 * part as f64 / whole as f64;
    format!("{} ({percent:.0} %)", bytes(part))
}

/// Columns as wide as their widest cell, two spaces apart, behind a margin.
pub(super) fn table(margin: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = margin.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(4 << 20), "4 MiB");
        assert_eq!(bytes((8 << 30) + (1 << 29)), "8.5 GiB");
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(printable("é\n\tx"), "é\n\tx");
        assert_eq!(
            printable("\x1b]0;x\x07\u{9b}"),
            "\u{fffd}]0;x\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("500M"), Ok(500 << 20));
        assert_eq!(parse_bytes("20g"), Ok(20 << 30));
        assert_eq!(parse_bytes("1.5 GiB"), Ok(3 << 29));
        for bad in [
            "",
            "G",
            "-1G",
            "0",
            "1e3",
            "inf",
            "nan",
            "5X",
            "99999999T",
            "1.2.3",
            "+1",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(0), "0 s");
        assert_eq!(duration(75), "1 min 15 s");
        assert_eq!(duration(7260), "2 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }

    #[test]
    fn shares_are_in_percent() {
        assert_eq!(share(1 << 20, 4 << 20), "1 MiB (25 %)");
        assert_eq!(share(0, 0), "0 B");
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(
            table("  ", &[row(["a", "b"]), row(["long", "c"])]),
            "  a     b\n  long  c\n"
        );
    }
}
