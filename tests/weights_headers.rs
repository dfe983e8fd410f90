//! Hostile headers of safetensors files: whatever is accepted keeps the promises,
//! and the `safetensors` crate, given the whole file, agrees.
//!
//! `REWARM_TEST_HEADERS` sets how many headers are tried, `REWARM_TEST_SEED` the
//! first seed. A failure prints the seed that repeats it.

mod common;

use common::number;
use common::weights::with_header;
use fastrand::Rng;
use rewarm::weights::{HeaderError, MOST_HEADER_BYTES, TensorData, header_bytes};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, HashSet};

/// Types with their bits, as the format's description has them.
const TYPES: [(&str, u64); 10] = [
    ("BOOL", 8),
    ("U8", 8),
    ("F8_E4M3", 8),
    ("F4", 4),
    ("F16", 16),
    ("BF16", 16),
    ("F32", 32),
    ("I64", 64),
    ("C64", 64),
    ("F6_E2M3", 6),
];

/// Numbers at which arithmetic goes wrong.
const EDGES: [&str; 12] = [
    "0",
    "1",
    "-1",
    "1.5",
    "1e3",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "\"1\"",
    "null",
];

/// A tensor as the header says it; strings, so that it may be nonsense.
#[derive(Clone)]
struct Entry {
    name: String,
    dtype: String,
    shape: Vec<String>,
    offsets: [String; 2],
}

impl Entry {
    fn json(&self) -> String {
        format!(
            r#""{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}}"#,
            self.name,
            self.dtype,
            self.shape.join(","),
            self.offsets[0],
            self.offsets[1]
        )
    }
}

/// A file: its first bytes, and how long it is.
struct Case {
    head: Vec<u8>,
    file_bytes: u64,
}

impl Case {
    fn new(seed: u64) -> Case {
        let rng = &mut Rng::with_seed(seed);
        let (mut entries, data) = right_entries(rng);
        let is_edited = rng.u8(..3) == 0;
        if is_edited {
            edit(rng, &mut entries);
        }
        let mut texts: Vec<_> = entries.iter().map(Entry::json).collect();
        if rng.bool() {
            texts.push(metadata(rng).to_owned());
        }
        rng.shuffle(&mut texts);
        let header = format!("{{{}}}{}", texts.join(","), " ".repeat(rng.usize(..9)));
        let mut head = with_header(header.as_bytes(), &[]);
        let mut file_bytes = (head.len() as u64).saturating_add(data);
        match rng.u8(..6) {
            0 => damage(rng, &mut head),
            1 => file_bytes = another_length(rng, file_bytes),
            2 => claim_another_header(rng, &mut head),
            _ => {}
        }
        Case { head, file_bytes }
    }

    /// What the loader does with such a file.
    fn parse(&self) -> Result<TensorData, HeaderError> {
        let length = self.head.get(..8).and_then(|bytes| bytes.try_into().ok());
        let length = length.ok_or(HeaderError::NoLength(self.head.len() as u64))?;
        let bytes = header_bytes(length, self.file_bytes)?;
        assert!(bytes as u64 <= MOST_HEADER_BYTES);
        assert!(bytes as u64 + 8 <= self.file_bytes);
        // What lies behind the part that was made is data, here zeros. A header
        // with some of them is wrong however many follow.
        let mut header = self.head[8..].to_vec();
        header.resize(bytes.min(1 << 16), 0);
        TensorData::parse(&header, self.file_bytes)
    }

    /// All of the file, unless it is large.
    fn whole(&self) -> Option<Vec<u8>> {
        const LARGE: u64 = 1 << 16;
        (self.file_bytes <= LARGE).then(|| {
            let mut file = self.head.clone();
            file.resize(self.file_bytes as usize, 0);
            file
        })
    }
}

/// Tensors that fill the data without a gap, and how many bytes they fill.
fn right_entries(rng: &mut Rng) -> (Vec<Entry>, u64) {
    let mut end = 0u64;
    let entries = (0..rng.usize(..6)).map(|index| {
        let (dtype, bits) = TYPES[rng.usize(..TYPES.len())];
        let large = rng.u8(..20) == 0;
        let mut shape: Vec<u64> = (0..rng.usize(..4)).map(|_| rng.u64(..6)).collect();
        // Whole bytes of every type.
        shape.push(if large { 8 << rng.u8(..50) } else { 8 });
        let elements: u64 = shape.iter().product();
        let begin = end;
        end = begin.saturating_add(elements.saturating_mul(bits) / 8);
        Entry {
            name: format!(
                "layer.{index}{}",
                ["", ".weight", "\\u00e9", " "][rng.usize(..4)]
            ),
            dtype: dtype.to_owned(),
            shape: shape.iter().map(u64::to_string).collect(),
            offsets: [begin.to_string(), end.to_string()],
        }
    });
    (entries.collect(), end)
}

fn edit(rng: &mut Rng, entries: &mut Vec<Entry>) {
    let Some(chosen) = (!entries.is_empty()).then(|| rng.usize(..entries.len())) else {
        return;
    };
    let edge = EDGES[rng.usize(..EDGES.len())].to_owned();
    let other = entries[rng.usize(..entries.len())].clone();
    let entry = &mut entries[chosen];
    match rng.u8(..9) {
        0 => entry.name = other.name,
        1 => entry.dtype = ["f32", "", "F128", "U8", "F64"][rng.usize(..5)].to_owned(),
        2 => entry.shape.push(edge),
        3 => entry.shape[0] = edge,
        4 => entry.offsets[rng.usize(..2)] = edge,
        5 => entry.offsets = other.offsets,
        6 => entry.offsets.swap(0, 1),
        7 => entries.push(other),
        _ => drop(entries.remove(chosen)),
    }
}

fn metadata(rng: &mut Rng) -> &'static str {
    [
        r#""__metadata__":{"format":"pt"}"#,
        r#""__metadata__":{}"#,
        r#""__metadata__":null"#,
        r#""__metadata__":{"format":1}"#,
        r#""__metadata__":[]"#,
    ][rng.usize(..5)]
}

/// Bytes of the header changed, lost, doubled or exchanged.
fn damage(rng: &mut Rng, head: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..head.len());
        match rng.u8(..5) {
            0 => head[at] = rng.u8(..),
            1 => head[at] ^= 1 << rng.u8(..8),
            2 => drop(head.remove(at)),
            3 => head.insert(at, b"{}[],:\"0\\\xff\0"[rng.usize(..11)]),
            _ => {
                let from = rng.usize(..head.len());
                head.swap(at, from);
            }
        }
    }
}

fn another_length(rng: &mut Rng, right: u64) -> u64 {
    match rng.u8(..4) {
        0 => right.saturating_sub(rng.u64(1..20)),
        1 => right.saturating_add(rng.u64(1..20)),
        2 => rng.u64(..right.saturating_add(1)),
        _ => rng.u64(..),
    }
}

fn claim_another_header(rng: &mut Rng, head: &mut [u8]) {
    let right = head.len() as u64 - 8;
    let claimed = match rng.u8(..4) {
        0 => right.wrapping_add(rng.u64(..5)).wrapping_sub(2),
        1 => MOST_HEADER_BYTES.wrapping_add(rng.u64(..3)).wrapping_sub(1),
        2 => u64::MAX - rng.u64(..10),
        _ => rng.u64(..),
    };
    head[..8].copy_from_slice(&claimed.to_le_bytes());
}

/// The promises, worked out again with numbers that cannot overflow.
fn check(data: &TensorData, file_bytes: u64) {
    let bits: BTreeMap<_, _> = TYPES.into_iter().collect();
    let mut end = u128::from(data.offset);
    let mut names = HashSet::new();
    for tensor in &data.tensors {
        assert_eq!(u128::from(tensor.offset), end, "a gap or an overlap");
        let elements: u128 = tensor.shape.iter().map(|&length| length as u128).product();
        let dtype = tensor.dtype.to_string();
        // Damage may have made another type of it.
        if let Some(&bits) = bits.get(dtype.as_str()) {
            let right = elements * u128::from(bits);
            assert_eq!(u128::from(tensor.bytes) * 8, right, "{tensor:?}");
        }
        assert!(names.insert(&tensor.name), "{} twice", tensor.name);
        end += u128::from(tensor.bytes);
    }
    assert_eq!(end, u128::from(data.offset) + u128::from(data.bytes));
    assert_eq!(end, u128::from(file_bytes), "not the end of the file");
}

/// The crate takes the last of several tensors of one name, we take none.
fn agrees(found: &Result<TensorData, HeaderError>, whole: &[u8]) {
    match (found, SafeTensors::deserialize(whole)) {
        (Ok(data), Ok(theirs)) => {
            assert_eq!(data.tensors.len(), theirs.len());
            for tensor in &data.tensors {
                let view = theirs.tensor(&tensor.name).expect("the same names");
                assert_eq!(view.data().len() as u64, tensor.bytes);
                assert_eq!(view.shape(), tensor.shape);
                let begins = view.data().as_ptr().addr() - whole.as_ptr().addr();
                assert!(tensor.bytes == 0 || begins as u64 == tensor.offset);
            }
        }
        (Err(_), Err(_)) => {}
        (Err(HeaderError::Json(error)), Ok(_)) if error.to_string().contains("twice") => {}
        (ours, theirs) => panic!(
            "ours: {ours:?}, the crate's: {:?}",
            theirs.map(|_| "accepted")
        ),
    }
}

fn kind(found: &Result<TensorData, HeaderError>) -> &'static str {
    match found {
        Ok(_) => "accepted",
        Err(HeaderError::NoLength(_)) => "no length",
        Err(HeaderError::TooLong(_)) => "too long",
        Err(HeaderError::BeyondEnd { .. }) => "beyond the end",
        Err(HeaderError::NotUtf8(_)) => "not UTF-8",
        Err(HeaderError::Json(error)) if error.to_string().contains("twice") => "twice",
        Err(HeaderError::Json(_)) => "JSON",
        Err(HeaderError::Misplaced(_)) => "misplaced",
        Err(HeaderError::WrongLength(_)) => "wrong length",
        Err(HeaderError::TooLarge(_)) => "too large",
        Err(HeaderError::Truncated { .. }) => "truncated",
        Err(HeaderError::Trailing(_)) => "trailing",
    }
}

/// Says which seed it was if the test ends here.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "repeat with REWARM_TEST_SEED={} REWARM_TEST_HEADERS=1",
                self.0
            );
        }
    }
}

#[test]
fn whatever_header_is_accepted_keeps_the_promises() {
    let headers = number("REWARM_TEST_HEADERS", 50_000);
    let first = number("REWARM_TEST_SEED", 1);
    println!("{headers} headers from seed {first}");
    let mut kinds = BTreeMap::<_, u64>::new();
    for seed in first..first + headers {
        let _seed = Seed(seed);
        let case = Case::new(seed);
        let found = case.parse();
        *kinds.entry(kind(&found)).or_default() += 1;
        match &found {
            Ok(data) => check(data, case.file_bytes),
            Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
        }
        if let Some(whole) = case.whole() {
            agrees(&found, &whole);
        }
    }
    println!("{kinds:#?}");
    if headers >= 10_000 {
        let ways = 11;
        assert!(
            kinds.len() >= ways,
            "only {} of {ways} ways: {kinds:#?}",
            kinds.len()
        );
        let accepted = kinds["accepted"];
        assert!(accepted > headers / 5, "only {accepted} were accepted");
    }
}
