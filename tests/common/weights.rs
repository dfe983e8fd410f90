//! Files of weights for tests.

use std::path::Path;

/// A safetensors file: the header's length, the header, so many bytes of data.
pub fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header, data].concat()
}

/// A right safetensors file, of bytes that differ from place to place.
pub fn safetensors(tensors: &[(&str, usize)]) -> Vec<u8> {
    let (mut entries, mut end) = (Vec::new(), 0);
    for (name, bytes) in tensors {
        let begin = end;
        end += bytes;
        entries.push(format!(
            r#""{name}":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    with_header(header.as_bytes(), &pattern(end))
}

/// Bytes that differ from place to place.
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// An index that maps tensors to files.
pub fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(tensor, file)| format!(r#""{tensor}":"{file}""#))
        .collect();
    format!(
        r#"{{"metadata":{{}},"weight_map":{{{}}}}}"#,
        entries.join(",")
    )
}

/// A model in two files with its index.
pub fn write_model(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    write(
        "one.safetensors",
        &safetensors(&[("a", 70_000), ("b", 0), ("c", 5)]),
    );
    write("two.safetensors", &safetensors(&[("d", 3_000_000)]));
    let map = [
        ("a", "one.safetensors"),
        ("b", "one.safetensors"),
        ("c", "one.safetensors"),
        ("d", "two.safetensors"),
    ];
    write("model.safetensors.index.json", index(&map).as_bytes());
}
