//! Git's ids of files and trees, computed from what lies on a disk. Nothing is written.

use std::io::{self, Read};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// Bytes read at once from a file that is hashed.
const PIECE_BYTES: usize = 64 << 10;

/// The id of an object: 20 bytes, shown as 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id([u8; 20]);

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A file.
    Plain,
    /// A file that can be run.
    Executable,
    /// A symbolic link; its content is where it leads.
    Link,
    /// A commit of another repository; on a disk an empty directory.
    Module,
}

/// A path in a tree, with `/` between its parts, what it is and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) path: Vec<u8>,
    pub(super) mode: Mode,
    pub(super) id: Id,
}

impl Id {
    /// From 40 digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        if !super::program::is_id(text) {
            return None;
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Mode {
    /// As `ls-tree` tells it. Old repositories have files that a group may write; they count as plain.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "100644" | "100664" => Some(Self::Plain),
            "100755" => Some(Self::Executable),
            "120000" => Some(Self::Link),
            "160000" => Some(Self::Module),
            _ => None,
        }
    }

    /// As it stands in a tree.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "100644",
            Self::Executable => "100755",
            Self::Link => "120000",
            Self::Module => "160000",
        }
    }
}

/// The id of a file of `len` bytes that `content` yields. An error when it yields another number.
pub(super) fn blob(len: u64, mut content: impl Read) -> io::Result<Id> {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {len}\0").as_bytes());
    let mut piece = vec![0; PIECE_BYTES];
    let mut seen = 0_u64;
    loop {
        let got = content.read(&mut piece)?;
        if got == 0 {
            break;
        }
        seen += got as u64;
        context.update(&piece[..got]);
    }
    if seen != len {
        return Err(io::Error::other("the file changed while it was read"));
    }
    Ok(finish(context))
}

/// The id of the tree that holds `leaves`, in whatever order they come. Paths are unique, and none is a directory of
/// another.
pub(super) fn tree(mut leaves: Vec<Leaf>) -> Id {
    leaves.sort_by(|one, other| one.path.cmp(&other.path));
    subtree(&leaves, 0)
}

/// The id of the tree of `leaves`, whose paths have the same first `skip` bytes.
fn subtree(leaves: &[Leaf], skip: usize) -> Id {
    let mut entries: Vec<(Vec<u8>, &'static str, Vec<u8>, Id)> = Vec::new();
    let mut rest = leaves;
    while let Some(first) = rest.first() {
        let tail = &first.path[skip..];
        let Some(end) = tail.iter().position(|byte| *byte == b'/') else {
            entries.push((tail.to_vec(), first.mode.as_str(), tail.to_vec(), first.id));
            rest = &rest[1..];
            continue;
        };
        // Sorted by bytes, everything below one directory stands together.
        let below = &first.path[..=skip + end];
        let count = rest.iter().take_while(|leaf| leaf.path.starts_with(below)).count();
        let id = subtree(&rest[..count], skip + end + 1);
        entries.push((tail[..=end].to_vec(), "40000", tail[..end].to_vec(), id));
        rest = &rest[count..];
    }
    // Git sorts a directory as if its name ended in a slash.
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    let mut body = Vec::new();
    for (_, mode, name, id) in entries {
        body.extend_from_slice(mode.as_bytes());
        body.push(b' ');
        body.extend_from_slice(&name);
        body.push(0);
        body.extend_from_slice(&id.0);
    }
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("tree {}\0", body.len()).as_bytes());
    context.update(&body);
    finish(context)
}

fn finish(context: Context) -> Id {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(context.finish().as_ref());
    Id(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_git_tells() {
        assert_eq!(tree(Vec::new()).to_string(), "4b825dc642cb6eb9a060e54bf8d69288fbee4904");
        let hello = blob(6, &b"hello\n"[..]).unwrap();
        assert_eq!(hello.to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(Id::parse("ce013625030ba8dba906f756967f9e9ca394464a"), Some(hello));
        assert_eq!(Id::parse("ce01"), None);
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_has_no_id() {
        assert!(blob(5, &b"hello\n"[..]).is_err());
    }
}
