//! Versions of CRIU.

use std::fmt;

/// A version: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// From what `criu --version` prints.
    pub(super) fn told(text: &str) -> Option<Version> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Version:"))?;
        Version::parse(line.trim())
    }

    /// From text such as `4.2.1` or `4.2`. What is behind the numbers is left out.
    pub fn parse(text: &str) -> Option<Version> {
        let end = text.find(|letter: char| letter != '.' && !letter.is_ascii_digit());
        let mut numbers = text[..end.unwrap_or(text.len())].split('.');
        let major = numbers.next()?.parse().ok()?;
        let mut next = || {
            numbers
                .next()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        Some(Version(major, next(), next()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version(major, minor, patch) = self;
        write!(to, "{major}.{minor}")?;
        if *patch > 0 {
            write!(to, ".{patch}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_criu_tells_them() {
        let told = |text| Version::told(text);
        assert_eq!(told("Version: 4.2.1\nGitID: x\n"), Some(Version(4, 2, 1)));
        assert_eq!(told("Version: 3.17.1\n"), Some(Version(3, 17, 1)));
        assert_eq!(told("Version: 4.1-rc1\n"), Some(Version(4, 1, 0)));
        assert_eq!(told("BusyBox 4.2\n"), None);
        assert_eq!(told("Version: x\n"), None);
    }

    #[test]
    fn versions_have_an_order() {
        assert!(Version(4, 0, 0) > Version(3, 19, 9));
        assert!(Version(4, 10, 0) > Version(4, 2, 1));
        assert_eq!(Version(4, 2, 0).to_string(), "4.2");
        assert_eq!(Version(4, 2, 1).to_string(), "4.2.1");
    }
}
