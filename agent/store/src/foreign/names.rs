//! From labels to records. Pure: labels in, readings out.
//!
//! One label may be read in two ways: `a/b` is key `b` of the record `a`, or the one value of the record `a/b`. Who
//! asks for a path decides. For a listing, and for the question whether an object may go, it matters what **anchors** a
//! reading: metadata of its own, or other objects that only it explains.

use std::collections::{BTreeMap, BTreeSet};

use hsm_types::{Key, RecordPath};

/// The name of the Go operator's metadata objects.
const METADATA: &str = "_metadata";

/// What an object is in one reading of its label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The metadata.
    Metadata,
    /// The value of the key `data`, or by hand all values in one JSON object.
    Data,
    /// The value of this key.
    Key(Key),
}

/// The objects that make up one record, if its path is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// The objects (by their place in the list of labels), in the order of that list.
    pub(crate) members: Vec<(usize, Part)>,
    /// Whether a listing shows it. Else it is only there for who asks for it.
    pub(crate) listed: bool,
    /// Whether more than a name that could be anybody's says that this is a record.
    pub(crate) anchored: bool,
    /// The objects that another reading needs too which is anchored, or for which more speaks; and its record.
    pub(crate) contested: BTreeMap<usize, RecordPath>,
}

/// The ways to read a label; none if it cannot be a record's.
pub(crate) fn readings(label: &str) -> Vec<(RecordPath, Part)> {
    let parent =
        label.rsplit_once('/').and_then(|(parent, last)| Some((RecordPath::new(parent).ok()?, last)));
    match parent {
        Some((path, METADATA)) => vec![(path, Part::Metadata)],
        parent => {
            let own = RecordPath::new(label).ok().map(|path| (path, Part::Data));
            let key = parent.and_then(|(path, last)| Some((path, Part::Key(Key::new(last).ok()?))));
            // Where the whole label is no path, its beginning is none either, except that it may be too long.
            own.into_iter().chain(key).collect()
        }
    }
}

/// Whether `path` is `secrets/<namespace>/<name>`.
pub(crate) fn is_default_form(path: &str) -> bool {
    path.strip_prefix("secrets/").is_some_and(|rest| rest.split('/').count() == 2)
}

/// Whether a label is of a form that is used for secrets only.
pub(crate) fn speaks_for_itself(label: &str) -> bool {
    label.strip_prefix("secrets/").is_some_and(|rest| rest.contains('/'))
}

/// How well a reading explains a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// Nothing speaks for it.
    Weak,
    /// Other objects do.
    Company,
    /// The form of the label does.
    Form,
    /// The record's metadata do.
    Metadata,
}

struct Names<'a> {
    there: BTreeSet<&'a str>,
    /// Paths that have metadata.
    anchors: BTreeSet<&'a str>,
    /// Labels by the path that they would be keys of.
    below: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Names<'a> {
    fn of(labels: impl Iterator<Item = &'a str>) -> Self {
        let mut names = Self { there: BTreeSet::new(), anchors: BTreeSet::new(), below: BTreeMap::new() };
        for label in labels {
            match label.rsplit_once('/') {
                Some((path, METADATA)) => {
                    names.anchors.insert(path);
                    continue;
                }
                Some((parent, key)) if Key::new(key).is_ok() => {
                    names.below.entry(parent).or_default().insert(label);
                }
                _ => {}
            }
            names.there.insert(label);
        }
        names
    }

    /// Whether something beside the object itself speaks for this reading of its label.
    fn anchored(&self, path: &str, label: &str, part: &Part) -> bool {
        self.anchors.contains(path)
            || match part {
                Part::Metadata => true,
                Part::Data => self.below.contains_key(label),
                // A sibling speaks for the record above only if it is not plainly a record of its own.
                Part::Key(_) => {
                    let own = |other: &str| self.anchors.contains(other) || is_default_form(other);
                    let siblings = self.below.get(path).into_iter().flatten();
                    self.there.contains(path)
                        || siblings.into_iter().any(|other| *other != label && !own(other))
                }
            }
    }

    fn claim(&self, path: &str, label: &str, part: &Part) -> Claim {
        if self.anchors.contains(path) {
            Claim::Metadata
        } else if is_default_form(path) {
            Claim::Form
        } else if self.anchored(path, label, part) {
            Claim::Company
        } else {
            Claim::Weak
        }
    }
}

/// All records that the labels can be read as, whoever asks. Labels that cannot be a record's take no part. What is known
/// to belong to one record is not read as another's, and speaks for nothing else.
pub(crate) fn group(labels: &[(&str, Option<&RecordPath>)]) -> BTreeMap<RecordPath, Group> {
    let names = Names::of(labels.iter().filter(|(_, owner)| owner.is_none()).map(|(label, _)| *label));
    let mut groups: BTreeMap<RecordPath, Group> = BTreeMap::new();
    for (at, (label, owner)) in labels.iter().enumerate() {
        let mut readings = readings(label);
        readings.retain(|(path, _)| owner.is_none_or(|owner| owner == path));
        let best = readings.iter().map(|(path, part)| names.claim(path.as_str(), label, part)).max();
        let keyed = readings.iter().any(|(_, part)| matches!(part, Part::Key(_)));
        for (path, part) in &readings {
            let claim = names.claim(path.as_str(), label, part);
            // Of two readings that nothing speaks for, the key of the shorter path is meant: `name/key`.
            let listed = Some(claim) == best && (claim > Claim::Weak || !keyed || *part != Part::Data);
            // The form of a label alone anchors no reading, but it speaks against one that less speaks for.
            let rival = readings.iter().find(|(other, other_part)| {
                other != path
                    && (names.anchored(other.as_str(), label, other_part)
                        || names.claim(other.as_str(), label, other_part) > claim)
            });
            let group = groups.entry(path.clone()).or_insert(Group {
                members: Vec::new(),
                listed: false,
                anchored: false,
                contested: BTreeMap::new(),
            });
            group.members.push((at, part.clone()));
            group.listed |= listed;
            group.anchored |= claim > Claim::Weak;
            if let Some((other, _)) = rival {
                group.contested.insert(at, other.clone());
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(labels: &[&str]) -> BTreeMap<RecordPath, Group> {
        group(&labels.iter().map(|label| (*label, None)).collect::<Vec<_>>())
    }

    fn listed(labels: &[&str]) -> Vec<(String, Vec<String>)> {
        let shown = |(at, part): &(usize, Part)| match part {
            Part::Metadata => "_metadata".to_owned(),
            Part::Data => "=".to_owned(),
            Part::Key(key) => format!("{}@{at}", key.as_str()),
        };
        let groups = grouped(labels).into_iter().filter(|(_, group)| group.listed);
        groups
            .map(|(path, group)| (path.as_str().to_owned(), group.members.iter().map(shown).collect()))
            .collect()
    }

    fn is(labels: &[&str], expected: &[(&str, &[&str])]) {
        let expected: Vec<(String, Vec<String>)> = expected
            .iter()
            .map(|(path, parts)| ((*path).to_owned(), parts.iter().map(|part| (*part).to_owned()).collect()))
            .collect();
        assert_eq!(listed(labels), expected, "{labels:?}");
    }

    #[test]
    fn a_listing_follows_metadata_then_the_default_form_then_the_bare_one() {
        is(&["secrets/n/db"], &[("secrets/n/db", &["="])]);
        is(&["secrets/n/db", "secrets/n/web"], &[("secrets/n/db", &["="]), ("secrets/n/web", &["="])]);
        is(&["secrets/n/db/user", "secrets/n/db/pass"], &[("secrets/n/db", &["user@0", "pass@1"])]);
        is(&["db"], &[("db", &["="])]);
        is(&["db/user"], &[("db", &["user@0"])]);
        is(&["apps/x/user"], &[("apps/x", &["user@0"])]);
        // Metadata say otherwise.
        is(&["apps/db", "apps/db/_metadata"], &[("apps/db", &["=", "_metadata"])]);
        is(&["secrets/n/_metadata", "secrets/n/db"], &[("secrets/n", &["_metadata", "db@1"])]);
        is(&["db/_metadata"], &[("db", &["_metadata"])]);
        is(&["a/b", "a/b/c", "a/b/_metadata"], &[("a/b", &["=", "c@1", "_metadata"])]);
    }

    #[test]
    fn what_cannot_be_a_record_takes_no_part() {
        for label in ["", "a b", "/a", "a//b", "ü", "_metadata", "a/..", "a/./_metadata", &"x".repeat(400)] {
            assert!(readings(label).is_empty(), "{label}");
        }
        // No key, but a path of its own.
        assert_eq!(readings("a/..b").len(), 1);
        assert_eq!(readings("a/b").len(), 2);
    }

    fn contested(labels: &[&str], path: &str) -> Option<(String, String)> {
        let groups = grouped(labels);
        let (at, other) = groups.get(&RecordPath::new(path).unwrap())?.contested.first_key_value()?;
        Some((labels[*at].to_owned(), other.as_str().to_owned()))
    }

    #[test]
    fn an_object_that_another_anchored_reading_needs_is_contested() {
        let both = |label: &str, other: &str| Some((label.to_owned(), other.to_owned()));
        let labels = ["a/_metadata", "a/b", "a/b/_metadata", "a/b/c"];
        assert_eq!(contested(&labels, "a"), both("a/b", "a/b"));
        assert_eq!(contested(&labels, "a/b"), both("a/b", "a"));
        // Something is below it.
        assert_eq!(contested(&["a/b", "a/b/c", "a/_metadata"], "a"), both("a/b", "a/b"));
        // Brothers speak for the record above, unless they are plainly records of their own.
        assert_eq!(contested(&["x/y/z", "x/y/w"], "x/y/z"), both("x/y/z", "x/y"));
        assert_eq!(contested(&["x/y/z", "x/y/w", "x/y/w/_metadata"], "x/y/z"), None);
        assert_eq!(contested(&["x/y/z"], "x/y/z"), None);
        assert_eq!(contested(&["secrets/n/a", "secrets/n/b"], "secrets/n/a"), None);
        assert_eq!(contested(&["secrets/n/a/k", "secrets/n/a/l"], "secrets/n/a"), None);
        assert_eq!(
            contested(&["secrets/n/a/k", "secrets/n/a/l"], "secrets/n/a/k"),
            both("secrets/n/a/k", "secrets/n/a")
        );
    }

    #[test]
    fn what_belongs_to_one_record_is_no_part_of_another() {
        let owner = RecordPath::new("app/db").unwrap();
        let groups = group(&[("app/db", Some(&owner)), ("app/x", None)]);
        let app = &groups[&RecordPath::new("app").unwrap()];
        assert_eq!((app.members.len(), app.anchored), (1, false));
        assert_eq!(groups[&owner].members, [(0, Part::Data)]);
        assert!(groups[&owner].contested.is_empty());
    }
}
