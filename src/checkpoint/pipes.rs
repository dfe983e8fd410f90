//! Pipes whose other end is outside of a tree. CRIU saves the end that is inside, and
//! after the restore nobody is at the other one.

use super::tree::{Access, Descriptor, Kind, Tree};
use std::collections::HashMap;

/// What somebody should know about the pipes of a tree, a sentence for each process.
pub fn cut_pipes(tree: &Tree) -> Vec<String> {
    let mut ends: HashMap<u64, (bool, bool)> = HashMap::new();
    for (_, one) in tree.descriptors().filter(|(_, one)| is_nameless(one)) {
        let (is_read, is_written) = ends.entry(one.inode).or_default();
        let writes = one.access != Access::Read;
        *is_read |= !writes;
        *is_written |= writes;
    }
    let is_cut = |one: &&Descriptor| {
        let ends = ends.get(&one.inode);
        is_nameless(one) && ends.is_some_and(|(is_read, is_written)| is_read != is_written)
    };
    let sentence = |member: &super::tree::Member| {
        let cut = member.descriptors.iter().filter(is_cut);
        let numbers: Vec<_> = cut.map(|one| one.number.to_string()).collect();
        let pid = member.pid();
        (!numbers.is_empty()).then(|| {
            format!(
                "process {pid} has pipes to processes outside of the tree (descriptors {}): after a restore nobody is at their other ends; to keep its output, start it with a file in place of the pipe",
                numbers.join(", ")
            )
        })
    };
    tree.members.iter().filter_map(sentence).collect()
}

/// Pipes with a name are found again by it.
fn is_nameless(descriptor: &Descriptor) -> bool {
    descriptor.kind == Kind::Pipe && descriptor.link.to_string_lossy().starts_with("pipe:")
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Facts, Member};
    use super::*;

    fn member(pid: u32, pipes: &[(u64, bool, &str)]) -> Member {
        let descriptor = |(number, &(inode, is_written, link)): (u32, &(u64, bool, &str))| {
            let link = link.into();
            let kind = Kind::Pipe;
            Descriptor {
                number,
                link,
                inode,
                kind,
                access: if is_written {
                    Access::Write
                } else {
                    Access::Read
                },
            }
        };
        Member {
            facts: Facts {
                pid,
                ..Facts::default()
            },
            descriptors: (0..).zip(pipes).map(descriptor).collect(),
            ..Member::default()
        }
    }

    #[test]
    fn only_pipes_to_the_outside_are_told() {
        let tree = |members| Tree {
            members,
            ..Tree::default()
        };
        let (read, write) = ((5, false, "pipe:[5]"), (5, true, "pipe:[5]"));
        let within = vec![member(7, &[read]), member(8, &[write])];
        assert!(cut_pipes(&tree(within)).is_empty());
        let named = member(7, &[(5, true, "/run/fifo")]);
        assert!(cut_pipes(&tree(vec![named])).is_empty());
        let others = [(6, true, "pipe:[6]"), (6, true, "pipe:[6]"), read];
        let told = cut_pipes(&tree(vec![member(7, &others), member(8, &[write])]));
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("process 7 ") && told[0].contains("(descriptors 0, 1)"));
    }
}
