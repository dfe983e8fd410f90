//! Numbers and tables for people.

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
