//! Whether this machine is like the one that the checkpoint was made on, as far as
//! it can be told without the driver.

use super::Misfit;
use crate::checkpoint::{Machine, Manifest};
use crate::config::effective_uid;
use crate::criu::tool::Version;

/// Beginnings of the names of CPU features that programs use by themselves, and so
/// rely on once they have found them. The others are the kernel's business.
const USED_BY_PROGRAMS: [&str; 33] = [
    "sse",
    "ssse3",
    "pni",
    "avx",
    "fma",
    "f16c",
    "bmi",
    "abm",
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "popcnt",
    "movbe",
    "movdir",
    "rdrand",
    "rdseed",
    "rdpid",
    "rdtscp",
    "adx",
    "sha_ni",
    "gfni",
    "xsave",
    "xgetbv1",
    "amx",
    "cx16",
    "lahf_lm",
    "fsgsbase",
    "clflushopt",
    "clwb",
    "pku",
    "serialize",
    "waitpkg",
];

pub(super) fn check(manifest: &Manifest, criu_version: Version) -> Vec<Misfit> {
    let here = Machine::look(None);
    let misfits = [
        kernel(&manifest.machine.kernel, &here.kernel),
        cpu(&manifest.machine, &here),
        criu(&manifest.criu_version, criu_version),
    ];
    misfits.into_iter().flatten().map(Misfit::Machine).collect()
}

/// Whether this user may not restore. `CAP_CHECKPOINT_RESTORE` is not enough for how
/// CRIU is run here.
pub(super) fn rights() -> Option<Misfit> {
    let is_root = effective_uid() == 0;
    (!is_root).then(|| Misfit::Machine("restoring processes takes root: use sudo".into()))
}

fn kernel(then: &str, here: &str) -> Option<String> {
    let is_older = match (Version::parse(here), Version::parse(then)) {
        // Patch levels do not matter.
        (Some(here), Some(then)) => (here.0, here.1) < (then.0, then.1),
        _ => false,
    };
    is_older.then(|| {
        format!(
            "the checkpoint was made on Linux {then}, and this machine has {here}, which is older: restore on a kernel of that version or later"
        )
    })
}

fn cpu(then: &Machine, here: &Machine) -> Option<String> {
    let is_used = |name: &str| USED_BY_PROGRAMS.iter().any(|begin| name.starts_with(begin));
    let lacks = |name: &&String| is_used(name) && here.cpu_features.binary_search(name).is_err();
    let missing: Vec<_> = then
        .cpu_features
        .iter()
        .filter(lacks)
        .map(String::as_str)
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "this CPU ({}) lacks what the one of the checkpoint ({}) had, and the processes may use it: {}; restore on a machine with a CPU like that",
            here.cpu_model, then.cpu_model, missing.join(" ")
        )
    })
}

fn criu(then: &str, here: Version) -> Option<String> {
    let is_older = Version::parse(then).is_some_and(|then| here < then);
    is_older.then(|| {
        format!(
            "the images were written by CRIU {then}, and the one here is {here}, which cannot be relied on to read them: install CRIU {then} or later, or name one with --criu"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(kernel("6.9.1", "6.18.0"), None);
        assert_eq!(
            kernel("6.18.5", "6.18.0-x"),
            None,
            "a patch level is no matter"
        );
        assert!(kernel("6.18.5", "6.9.99").unwrap().contains("6.18.5"));
        assert_eq!(criu("4.2", Version(4, 2, 1)), None);
        let said = criu("4.2.1", Version(4, 1, 1)).unwrap();
        assert!(said.contains("--criu"));
    }

    #[test]
    fn only_features_that_programs_use_matter() {
        let machine = |features: &[&str]| Machine {
            cpu_model: "X".into(),
            cpu_features: features.iter().map(|&name| name.to_owned()).collect(),
            ..Machine::default()
        };
        let then = machine(&["avx2", "avx512f", "ibrs", "sse2"]);
        assert_eq!(cpu(&then, &machine(&["avx2", "avx512f", "sse2"])), None);
        let said = cpu(&then, &machine(&["avx2", "sse2"])).unwrap();
        assert!(said.contains(": avx512f;"), "{said}");
    }
}
