//! What an import does with one version of the file, from what the token has. Pure.

use hsm_store::Replica;
use hsm_types::{Digest, Relation, Revision, Tombstone};

/// What is to be done with one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The token has nothing, or an ancestor of it: write it as it is.
    Write,
    /// The token has it, or the same content.
    Same,
    /// The token's is newer.
    Kept,
    /// This life of the record was deleted.
    Dead,
    /// The token has another version, and neither is newer; or it has another life of the record.
    Conflict,
    /// Write its content as a new version, over what is there.
    Replace,
}

/// `heads` are the living versions on the token; `tombstones` the lives of this path that ended, here or in the file.
pub(super) fn decide(
    heads: &[Revision],
    tombstones: &[Tombstone],
    replica: &Replica,
    replace: bool,
) -> Decision {
    let relations: Vec<Relation> = heads.iter().map(|head| replica.revision.relation(head)).collect();
    if relations.contains(&Relation::Equal) {
        return Decision::Same;
    }
    if relations.contains(&Relation::Behind) {
        return Decision::Kept;
    }
    // Nothing is lost and nothing to be decided where the content is what is there.
    if let [head] = heads
        && Digest::of(&replica.path, head.version.incarnation, &replica.content) == head.digest
        && relations != [Relation::Ahead]
    {
        return Decision::Same;
    }
    let dead = tombstones.iter().any(|tomb| tomb.incarnation == replica.revision.version.incarnation);
    match (dead, replace) {
        (true, false) => Decision::Dead,
        (false, _) if relations.iter().all(|relation| *relation == Relation::Ahead) => Decision::Write,
        (_, true) => Decision::Replace,
        (false, false) => Decision::Conflict,
    }
}

#[cfg(test)]
mod tests {
    use hsm_types::{Content, Incarnation, Key, Origin, Payload, RecordPath, Value, Version, WriterId};

    use super::*;

    const A: WriterId = WriterId::from_bytes([0xaa; 8]);
    const B: WriterId = WriterId::from_bytes([0xbb; 8]);

    fn first(life: u8) -> Version {
        Version::first(Incarnation::from_bytes([life; 8]), A)
    }

    fn replica(version: Version, value: &str) -> Replica {
        let path = RecordPath::new("p").unwrap();
        let data: Payload = [(Key::new("k").unwrap(), Value::new(value.into()))].into_iter().collect();
        let content = Content { data, ..Content::default() };
        let digest = Digest::of(&path, version.incarnation, &content);
        Replica {
            path,
            revision: Revision { version, digest, origin: Origin::Token { mark: None } },
            content,
        }
    }

    fn on_token(version: Version, value: &str) -> Revision {
        replica(version, value).revision
    }

    #[test]
    fn the_newer_version_wins_and_nothing_is_overwritten_unasked() {
        use Decision as D;
        let one = first(1);
        let two = one.next(A, &[], false);
        let other = one.next(B, &[], true);
        let another = one.next(A, &[], true);
        for (heads, file, expected, with_replace) in [
            (vec![], replica(one.clone(), "a"), D::Write, D::Write),
            (vec![on_token(one.clone(), "a")], replica(one.clone(), "a"), D::Same, D::Same),
            (vec![on_token(one.clone(), "a")], replica(two.clone(), "b"), D::Write, D::Write),
            // A newer version of the same content is a newer version.
            (vec![on_token(one.clone(), "a")], replica(two.clone(), "a"), D::Write, D::Write),
            (vec![on_token(two.clone(), "b")], replica(one.clone(), "a"), D::Kept, D::Kept),
            (vec![on_token(other.clone(), "b")], replica(another.clone(), "a"), D::Conflict, D::Replace),
            (vec![on_token(other.clone(), "b")], replica(another.clone(), "b"), D::Same, D::Same),
            (vec![on_token(one.clone(), "a")], replica(one.clone(), "b"), D::Conflict, D::Replace),
            (vec![on_token(first(2), "b")], replica(first(1), "a"), D::Conflict, D::Replace),
            (vec![on_token(first(2), "a")], replica(first(1), "a"), D::Same, D::Same),
            (
                vec![on_token(other.clone(), "b"), on_token(another.clone(), "a")],
                replica(another.clone(), "a"),
                D::Same,
                D::Same,
            ),
        ] {
            assert_eq!(decide(&heads, &[], &file, false), expected);
            assert_eq!(decide(&heads, &[], &file, true), with_replace);
        }
    }

    #[test]
    fn what_was_deleted_comes_back_only_when_asked_and_once() {
        let file = replica(first(1), "a");
        let stamp = file.revision.version.stamp();
        let tombs = [Tombstone { path: file.path.clone(), incarnation: stamp.incarnation, stamp }];
        assert_eq!(decide(&[], &tombs, &file, false), Decision::Dead);
        assert_eq!(decide(&[], &tombs, &file, true), Decision::Replace);
        // Made anew by the last import, it is the same content.
        assert_eq!(decide(&[on_token(first(2), "a")], &tombs, &file, true), Decision::Same);
        assert_eq!(decide(&[on_token(first(2), "b")], &tombs, &file, false), Decision::Dead);
    }
}
