//! Files of weights: which are taken, and what is said about those that are not.

mod common;

use common::Scratch;
use common::weights::{index, safetensors, with_header, write_model};
use rewarm::weights::{MOST_INDEX_BYTES, Weights, open};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

fn opened(path: &Path) -> Weights {
    open(&[path.to_owned()]).unwrap_or_else(|error| panic!("{error}"))
}

fn names(weights: &Weights) -> Vec<&str> {
    weights
        .files
        .iter()
        .flat_map(|file| &file.data.tensors)
        .map(|tensor| tensor.name.as_str())
        .collect()
}

/// The message about a path, which has to have the words in it.
fn refused(path: &Path, named: &Path, words: &str) -> String {
    let message = match open(&[path.to_owned()]) {
        Ok(weights) => panic!("{}: was opened: {weights:?}", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(message.contains(words), "{words:?} is not in: {message}");
    let name = named.to_str().unwrap();
    assert!(message.starts_with(name), "{name} is not named: {message}");
    assert!(message.len() < 1000, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    message
}

/// A file with this content is refused with these words.
fn refused_file(content: &[u8], words: &str) {
    let scratch = Scratch::new();
    let path = scratch.file("bad.safetensors");
    fs::write(&path, content).unwrap();
    refused(&path, &path, words);
}

fn refused_header(header: &str, data: usize, words: &str) {
    refused_file(&with_header(header.as_bytes(), &vec![0; data]), words);
}

#[test]
fn the_tensors_of_a_file_lie_where_its_header_says() {
    let scratch = Scratch::new();
    let path = scratch.file("a.safetensors");
    fs::write(&path, safetensors(&[("a", 10), ("empty", 0), ("b", 6)])).unwrap();
    let weights = opened(&path);
    let data = &weights.files[0].data;
    assert_eq!(
        (data.bytes, weights.bytes(), weights.tensors()),
        (16, 16, 3)
    );
    assert_eq!(data.offset + data.bytes, fs::metadata(&path).unwrap().len());
    let places: Vec<_> = data
        .tensors
        .iter()
        .map(|tensor| (tensor.offset - data.offset, tensor.bytes))
        .collect();
    assert_eq!(places, [(0, 10), (10, 0), (10, 6)]);
    let at = |offset| {
        data.tensor_at(data.offset + offset)
            .map(|tensor| &*tensor.name)
    };
    assert_eq!(
        (at(9), at(10), at(15), at(16)),
        (Some("a"), Some("b"), Some("b"), None)
    );
    assert_eq!(data.tensor_at(0), None);
}

#[test]
fn the_order_in_the_header_does_not_matter() {
    let header = r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]},"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}   "#;
    let scratch = Scratch::new();
    let path = scratch.file("a.safetensors");
    fs::write(&path, with_header(header.as_bytes(), &[0; 6])).unwrap();
    assert_eq!(names(&opened(&path)), ["a", "b"]);
}

#[test]
fn a_file_without_tensors_is_right() {
    let scratch = Scratch::new();
    let path = scratch.file("none.safetensors");
    fs::write(&path, with_header(b"{}", &[])).unwrap();
    assert_eq!((opened(&path).bytes(), opened(&path).tensors()), (0, 0));
}

#[test]
fn any_other_file_is_raw_data() {
    let scratch = Scratch::new();
    let path = scratch.file("weights.bin");
    fs::write(&path, [7; 1000]).unwrap();
    let weights = opened(&path);
    assert_eq!((weights.bytes(), weights.tensors()), (1000, 0));
    assert_eq!(weights.files[0].range().offset, 0);
}

#[test]
fn the_index_of_a_folder_says_what_belongs_to_it() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    fs::write(scratch.file("other.safetensors"), b"not even a header").unwrap();
    let weights = opened(scratch.path());
    assert_eq!(weights.files.len(), 2);
    assert_eq!(names(&weights), ["a", "b", "c", "d"]);
    assert_eq!(weights.warnings, [""; 0]);
    let named = opened(&scratch.file("model.safetensors.index.json"));
    assert_eq!(names(&named), names(&weights));
}

#[test]
fn without_an_index_all_safetensors_of_the_folder_do() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    fs::remove_file(scratch.file("model.safetensors.index.json")).unwrap();
    fs::write(scratch.file("config.json"), "{}").unwrap();
    assert_eq!(names(&opened(scratch.path())), ["a", "b", "c", "d"]);
}

#[test]
fn shards_may_be_links_as_in_the_hugging_face_cache() {
    let scratch = Scratch::new();
    let (blobs, snapshot) = (scratch.file("blobs"), scratch.file("snapshot"));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir(&snapshot).unwrap();
    write_model(&blobs);
    for name in [
        "one.safetensors",
        "two.safetensors",
        "model.safetensors.index.json",
    ] {
        symlink(blobs.join(name), snapshot.join(name)).unwrap();
    }
    assert_eq!(opened(&snapshot).tensors(), 4);
    fs::remove_file(blobs.join("model.safetensors.index.json")).unwrap();
    let index = snapshot.join("model.safetensors.index.json");
    refused(&snapshot, &index, "No such file");
}

#[test]
fn tensors_that_the_index_does_not_name_are_a_warning() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let map = index(&[("a", "one.safetensors"), ("d", "two.safetensors")]);
    fs::write(scratch.file("model.safetensors.index.json"), map).unwrap();
    let weights = opened(scratch.path());
    assert_eq!(weights.warnings.len(), 1);
    let warning = &weights.warnings[0];
    assert!(
        warning.contains("one.safetensors") && warning.contains("2 of its 3"),
        "{warning}"
    );
    assert_eq!(weights.tensors(), 4);
}

#[test]
fn files_that_are_too_short_or_too_long_are_refused() {
    refused_file(b"", "0 bytes");
    refused_file(b"1234567", "7 bytes");
    refused_file(&[0; 8], "EOF");
    refused_file(&u64::MAX.to_le_bytes(), "18446744073709551615 bytes");
    refused_file(&100_000_001u64.to_le_bytes(), "100000000 are the most");
    refused_file(&with_header(&[b' '; 20], &[])[..20], "truncated");
    let whole = safetensors(&[("a", 1000)]);
    refused_file(&whole[..whole.len() - 1], "truncated");
    refused_file(&[whole, vec![0; 3]].concat(), "3 bytes follow");
}

#[test]
fn a_header_as_long_as_the_format_allows_is_not_read_if_the_file_is_shorter() {
    let scratch = Scratch::new();
    let path = scratch.file("sparse.safetensors");
    fs::write(&path, 100_000_000u64.to_le_bytes()).unwrap();
    refused(&path, &path, "the file has 8");
}

#[test]
fn headers_that_are_no_headers_are_refused() {
    refused_header("", 0, "EOF");
    refused_header("[]", 0, "expected an object");
    refused_header("null", 0, "expected an object");
    refused_header("{", 0, "EOF");
    refused_header("{} {}", 0, "trailing characters");
    refused_header("model weights", 0, "expected");
    refused_header(r#"{"a":1}"#, 0, "invalid type");
    refused_header(r#"{"a":{"dtype":"U8"}}"#, 0, "missing field");
    refused_header(r#"{"__metadata__":{"a":1}}"#, 0, "expected a string");
    refused_header(&"[".repeat(100_000), 0, "expected an object");
    let deep = format!(r#"{{"a":{{"x":{}"#, "[".repeat(100_000));
    refused_header(&deep, 0, "EOF");
    refused_file(&with_header(b"{\"\xff\":1}", &[]), "not UTF-8");
    let hostile = r#"{"a":{"dtype":"\u001b[2Jowned\n","shape":[1],"data_offsets":[0,1]}}"#;
    refused_header(hostile, 1, "owned");
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

#[test]
fn tensors_in_wrong_places_are_refused_by_name() {
    let refused_tensors = |tensors: &[String], data: usize, words: &str| {
        refused_header(&format!("{{{}}}", tensors.join(",")), data, words);
    };
    let first = tensor("first", "U8", "[4]", "[0,4]");
    let overlapping = tensor("over", "U8", "[4]", "[2,6]");
    refused_tensors(
        &[first.clone(), overlapping],
        6,
        "tensor over: its data overlaps",
    );
    let apart = tensor("apart", "U8", "[4]", "[5,9]");
    refused_tensors(
        &[first.clone(), apart],
        9,
        "tensor apart: its data overlaps",
    );
    let backwards = tensor("back", "U8", "[0]", "[4,0]");
    refused_tensors(&[first.clone(), backwards], 4, "tensor back");
    refused_tensors(&[first.clone(), first.clone()], 4, "first is there twice");
    refused_tensors(
        &[tensor("t", "F32", "[2]", "[0,4]")],
        4,
        "tensor t: the length",
    );
    refused_tensors(
        &[tensor("t", "F4", "[3]", "[0,2]")],
        2,
        "tensor t: the length",
    );
    refused_tensors(&[tensor("t", "U8", "[8]", "[0,8]")], 7, "truncated");
    refused_tensors(&[tensor("t", "Q9", "[8]", "[0,8]")], 8, "Q9");
    refused_tensors(&[tensor("t", "U8", "[-8]", "[0,8]")], 8, "invalid value");
    refused_tensors(
        &[tensor("t", "U8", "[8]", "[0,8,9]")],
        8,
        "its header is wrong",
    );
    let most = u64::MAX;
    refused_tensors(
        &[tensor("t", "U8", &format!("[{most},{most}]"), "[0,1]")],
        1,
        "tensor t: its shape is too large",
    );
    refused_tensors(
        &[tensor(
            "t",
            "U8",
            &format!("[{}]", most / 8),
            &format!("[0,{}]", most / 8),
        )],
        1,
        "truncated",
    );
    refused_tensors(
        &[tensor("t", "U8", &format!("[{most}0]"), "[0,1]")],
        1,
        "its header is wrong",
    );
}

/// A model whose index is this is refused with these words.
fn refused_index(text: &str, words: &str) -> String {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let path = scratch.file("model.safetensors.index.json");
    fs::write(&path, text).unwrap();
    refused(scratch.path(), scratch.path(), words)
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused() {
    refused_index("", "the index is wrong");
    refused_index("{}", "weight_map");
    refused_index(r#"{"weight_map":{}}"#, "no tensors");
    refused_index(r#"{"weight_map":{"a":1}}"#, "the index is wrong");
    refused_index(r#"{"weight_map":{},"weight_map":{}}"#, "duplicate");
    let one = "one.safetensors";
    refused_index(&index(&[("a", one), ("a", one)]), "a is there twice");
    refused_index(&index(&[("z", one)]), "tensor z is not in one.safetensors");
    let missing = refused_index(&index(&[("a", "three.safetensors")]), "No such file");
    assert!(missing.contains("three.safetensors"), "{missing}");
    for outside in [
        "../one.safetensors",
        "/one.safetensors",
        "a/one.safetensors",
        "..",
        "",
    ] {
        let message = refused_index(&index(&[("a", outside)]), "is not the plain name");
        assert!(message.contains("tensor a"), "{message}");
    }
}

#[test]
fn an_index_that_is_too_large_is_not_read() {
    let scratch = Scratch::new();
    let path = scratch.file("model.safetensors.index.json");
    let file = File::create(&path).unwrap();
    file.set_len(MOST_INDEX_BYTES + 1).unwrap();
    refused(scratch.path(), &path, "are the most");
}

#[test]
fn what_is_no_file_is_refused() {
    let scratch = Scratch::new();
    refused(
        scratch.path(),
        scratch.path(),
        "no model.safetensors.index.json and no *.safetensors",
    );
    let missing = scratch.file("missing.bin");
    refused(&missing, &missing, "No such file");
    let ring = scratch.file("ring.safetensors");
    symlink(&ring, &ring).unwrap();
    refused(&ring, &ring, "symbolic links");
    let null = Path::new("/dev/null");
    refused(null, null, "not a regular file");
    let folder = scratch.file("folder");
    fs::create_dir_all(folder.join("x.safetensors")).unwrap();
    refused(&folder, &folder.join("x.safetensors"), "not a regular file");
}
