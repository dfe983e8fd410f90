//! Names of the files of a snapshot. No other file of the folder is touched.

/// Says what there is; a folder without it holds no snapshot.
pub(super) const MANIFEST: &str = "manifest.json";
/// The manifest while it is being written.
pub(super) const NEW_MANIFEST: &str = "manifest.json.new";

/// What a file of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Manifest,
    NewManifest,
    /// Chunks.
    Data,
    /// Room for chunks, by number.
    Spare(u32),
}

pub(super) fn data(generation: u64, writer: usize) -> String {
    format!("data-{generation:04}-{writer:02}.bin")
}

pub(super) fn spare(number: u32) -> String {
    format!("spare-{number:02}.bin")
}

/// What a file is for, by its name; `None` if it is not ours.
pub(super) fn kind(name: &str) -> Option<Kind> {
    if name == MANIFEST {
        return Some(Kind::Manifest);
    }
    if name == NEW_MANIFEST {
        return Some(Kind::NewManifest);
    }
    let (stem, rest) = name.strip_suffix(".bin")?.split_once('-')?;
    match (stem, rest.split_once('-')) {
        ("data", Some((generation, writer))) => {
            let (generation, writer) = (generation.parse().ok()?, writer.parse().ok()?);
            (name == data(generation, writer)).then_some(Kind::Data)
        }
        ("spare", None) => {
            let number = rest.parse().ok()?;
            (name == spare(number)).then_some(Kind::Spare(number))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_written_are_known() {
        assert_eq!(kind(&data(7, 3)), Some(Kind::Data));
        assert_eq!(kind(&data(123_456, 128)), Some(Kind::Data));
        assert_eq!(kind(&spare(0)), Some(Kind::Spare(0)));
        assert_eq!(kind(MANIFEST), Some(Kind::Manifest));
        for other in [
            "",
            "data",
            "data-1-1.bin",
            "data-0001-+1.bin",
            "data-0001-01.bin.new",
            "data-00001-01.bin",
            "../data-0001-01.bin",
            "data-0001-01.bin/../x.bin",
            "spare-1.bin",
            "spare-01-01.bin",
            "spare-99999999999.bin",
            "model.bin",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }
}
