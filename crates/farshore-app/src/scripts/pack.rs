//! What another region's copy of a repository lacks, as one file.
//!
//! The copy tells its [`Refs`]; the source packs what these do not reach; the copy takes the pack, proves that nothing
//! is missing, and only then moves its refs. What the copy alone had is kept under a name that nobody sees.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use super::error::ScriptsError;
use super::program::{Call, is_id};
use super::repository::{Refs, Repository, deploys, within};

/// Branches and tags of one repository: ten megabytes of names, which is what a region sends with each change.
const REFS_MAX: u64 = 100_000;
/// A pack between regions: the whole history of a repository that grew for years.
const PACK_BYTES_MAX: u64 = 16 << 30;
/// A pack starts with its mark, its version and the number of its objects.
const PACK_HEAD_BYTES: usize = 12;
/// Commits kept that way; of more the oldest are let go.
const KEPT_MAX: usize = 1_000;
/// What is not reached by any branch any more, kept from being cleaned away.
const KEPT: &str = "refs/farshore/kept/";

impl Repository {
    /// Writes to `into` what a copy with the refs `have` lacks, synced, and returns its size; `None` when it lacks
    /// nothing. There is a pack also when only names differ: it is then empty, and [`Self::take_pack`] takes it.
    ///
    /// Ask [`Self::refs`] first and send these with the pack: a push between the two only makes the pack larger; a forced
    /// one makes it unfit for the refs, which the copy finds out.
    pub async fn pack_since(&self, have: &Refs, into: &Path) -> Result<Option<u64>, ScriptsError> {
        let mine = self.refs().await?;
        if mine == *have {
            return Ok(None);
        }
        let mut revisions = String::new();
        for id in mine.refs.values() {
            revisions.push_str(&format!("{id}\n"));
        }
        for id in self.known(have).await? {
            revisions.push_str(&format!("^{id}\n"));
        }
        let words = ["pack-objects", "--revs", "--thin", "--stdout", "--delta-base-offset", "-q"];
        // Given something at least, or git would not start: an empty line ends the list.
        revisions.push('\n');
        let input = revisions.into_bytes();
        let written = self.git.call(Call { words: &words, input, into: Some(into), ..Call::default() }).await;
        let synced = written.and_then(|_| {
            let sync = |file: std::fs::File| file.sync_all().and_then(|()| file.metadata());
            std::fs::File::open(into).and_then(sync).map_err(ScriptsError::disk("sync", into))
        });
        match synced {
            Ok(meta) => Ok(Some(meta.len())),
            Err(error) => {
                // What was written of it is worth nothing.
                let _ = std::fs::remove_file(into);
                Err(error)
            }
        }
    }

    /// Takes `pack`, made by [`Self::pack_since`] for this copy (an empty file where there was none), and then makes its refs those in `refs`: branches that
    /// were forced are forced, those that are gone are deleted. On return it is on the disk; on an error no ref has
    /// moved, or only deletions that stood in the way are done. Repeating it does no harm.
    ///
    /// Commits that only this copy had are kept: [`Self::kept`].
    pub async fn take_pack(&self, pack: &Path, refs: &Refs) -> Result<(), ScriptsError> {
        check(refs)?;
        self.sweep();
        let mine = self.refs().await?;
        if objects_of(pack)? > 0 {
            let size_max = format!("--max-input-size={PACK_BYTES_MAX}");
            let words = ["index-pack", "--stdin", "--fix-thin", "--strict", size_max.as_str()];
            let taken = self.git.call(Call { words: &words, from: Some(pack), ..Call::default() }).await;
            taken.map_err(unfit)?;
        }
        self.prove(refs).await?;
        self.keep(&mine, refs).await?;
        self.move_refs(&mine, refs).await?;
        self.set_head_branch(&refs.head).await?;
        self.sync(mine.refs.into_keys().chain(refs.refs.keys().cloned()).collect()).await?;
        self.tidy().await;
        Ok(())
    }

    /// Commits that were on a branch of this copy and are on none since another region's refs were taken.
    pub async fn kept(&self) -> Result<Vec<String>, ScriptsError> {
        let answer = self.git.ask(&["for-each-ref", "--format=%(objectname)", KEPT]).await?;
        Ok(String::from_utf8_lossy(&answer).lines().map(str::to_owned).collect())
    }

    /// Which objects of `have` are here.
    async fn known(&self, have: &Refs) -> Result<BTreeSet<String>, ScriptsError> {
        check(have)?;
        let ids: BTreeSet<&String> = have.refs.values().collect();
        if ids.is_empty() {
            return Ok(BTreeSet::new());
        }
        let input: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let words = ["cat-file", "--batch-check=%(objectname)"];
        let answer =
            self.git.call(Call { words: &words, input: input.into_bytes(), ..Call::default() }).await?;
        // Of one that is not here it says more than the id.
        Ok(String::from_utf8_lossy(&answer).lines().filter(|line| is_id(line)).map(str::to_owned).collect())
    }

    /// Everything that `refs` reach is here.
    async fn prove(&self, refs: &Refs) -> Result<(), ScriptsError> {
        if refs.refs.is_empty() {
            return Ok(());
        }
        let input: String = refs.refs.values().map(|id| format!("{id}\n")).collect();
        let words = ["rev-list", "--objects", "--stdin", "--not", "--all", "--quiet"];
        let call = Call { words: &words, input: input.into_bytes(), ..Call::default() };
        self.git.call(call).await.map(drop).map_err(unfit)
    }

    /// Names what `mine` reach and `refs` do not, so that it is not cleaned away.
    async fn keep(&self, mine: &Refs, refs: &Refs) -> Result<(), ScriptsError> {
        let reached: String = refs.refs.values().map(|id| format!("^{id}\n")).collect();
        let moved = mine.refs.iter().filter(|(name, id)| refs.refs.get(*name) != Some(*id));
        let old: BTreeSet<&String> = moved.map(|(_, id)| id).collect();
        for id in old {
            let input = format!("{id}\n{reached}").into_bytes();
            let words = ["rev-list", "--max-count=1", "--stdin"];
            let only_here = self.git.call(Call { words: &words, input, ..Call::default() }).await?;
            if !only_here.is_empty() {
                self.git.ask(&["update-ref", &format!("{KEPT}{id}"), id]).await?;
                self.let_go(KEPT_MAX).await?;
            }
        }
        Ok(())
    }

    /// Keeps the youngest `max` of what is kept.
    async fn let_go(&self, max: usize) -> Result<(), ScriptsError> {
        let words = ["for-each-ref", "--sort=-creatordate", "--format=delete %(refname)", KEPT];
        let answer = self.git.ask(&words).await?;
        let lines = String::from_utf8_lossy(&answer);
        self.update_refs(lines.lines().skip(max).map(|line| format!("{line}\n")).collect()).await
    }

    async fn move_refs(&self, mine: &Refs, refs: &Refs) -> Result<(), ScriptsError> {
        let gone = mine.refs.keys().filter(|name| !refs.refs.contains_key(*name));
        let (in_the_way, rest): (Vec<&String>, Vec<&String>) =
            gone.partition(|name| refs.refs.keys().any(|new| in_the_way(name, new)));
        let deletions: String = in_the_way.iter().map(|name| format!("delete {name}\n")).collect();
        self.update_refs(deletions).await?;
        let moved = refs.refs.iter().filter(|(name, id)| mine.refs.get(*name) != Some(*id));
        let mut changes: String = moved.map(|(name, id)| format!("update {name} {id}\n")).collect();
        changes.extend(rest.iter().map(|name| format!("delete {name}\n")));
        self.update_refs(changes).await
    }

    /// All of `changes` or none.
    pub(super) async fn update_refs(&self, changes: String) -> Result<(), ScriptsError> {
        if changes.is_empty() {
            return Ok(());
        }
        let words = ["update-ref", "-m", "farshore", "--stdin"];
        let call = Call { words: &words, input: changes.into_bytes(), ..Call::default() };
        self.git.call(call).await.map(drop)
    }
}

/// Whether both names cannot stand in one directory.
fn in_the_way(one: &str, other: &str) -> bool {
    let below = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'));
    below(one, other) || below(other, one)
}

/// Refuses refs that no repository of ours tells.
fn check(refs: &Refs) -> Result<(), ScriptsError> {
    within("the other repository", refs.refs.len() as u64, REFS_MAX, "branches and tags")?;
    if !deploys(&refs.head) {
        return Err(ScriptsError::Unfit(format!("{:?} is no branch that deploys", refs.head)));
    }
    for (name, id) in &refs.refs {
        let plain = name.chars().all(|char| !char.is_control() && char != ' ');
        if !plain || !name.starts_with("refs/") || name.starts_with("refs/farshore/") || !is_id(id) {
            return Err(ScriptsError::Unfit(format!("{name:?} is no branch or tag with an id")));
        }
    }
    Ok(())
}

/// How many objects a pack says it has. Nothing at all has none: there was nothing to send.
fn objects_of(pack: &Path) -> Result<u32, ScriptsError> {
    let file = std::fs::File::open(pack).map_err(ScriptsError::disk("read", pack))?;
    let mut head = Vec::with_capacity(PACK_HEAD_BYTES);
    let read = file.take(PACK_HEAD_BYTES as u64).read_to_end(&mut head);
    read.map_err(ScriptsError::disk("read", pack))?;
    match head.as_slice() {
        [] => Ok(0),
        [b'P', b'A', b'C', b'K', _, _, _, _, a, b, c, d] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => Err(ScriptsError::Unfit("it is no pack".into())),
    }
}

/// Git's refusal of what another region sent.
fn unfit(error: ScriptsError) -> ScriptsError {
    match error {
        ScriptsError::Git { verb, words } => ScriptsError::Unfit(format!("git {verb}: {words}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_the_way_of_one_below_it_only() {
        assert!(in_the_way("refs/heads/a", "refs/heads/a/b"));
        assert!(in_the_way("refs/heads/a/b", "refs/heads/a"));
        assert!(!in_the_way("refs/heads/a", "refs/heads/ab"));
        assert!(!in_the_way("refs/heads/a", "refs/heads/b"));
    }

    #[test]
    fn refs_that_carry_commands_are_refused() {
        let id = "1".repeat(40);
        let with = |name: &str, id: &str| Refs {
            refs: [(name.to_owned(), id.to_owned())].into(),
            ..Refs::default()
        };
        check(&with("refs/heads/main", &id)).unwrap();
        for (name, id) in [
            ("refs/heads/a\ndelete refs/heads/main", id.as_str()),
            ("refs/farshore/kept/x", id.as_str()),
            ("HEAD", id.as_str()),
            ("refs/heads/main", "--output=x"),
        ] {
            check(&with(name, id)).unwrap_err();
        }
        check(&Refs { head: "refs/heads/x".into(), ..Refs::default() }).unwrap_err();
    }
}
