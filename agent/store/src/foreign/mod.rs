//! Records that others have written: the Go operator, and people with `pkcs11-tool`. Pure; the store acts.
//!
//! # What is read
//!
//! Every data object whose label does not begin with `hsm.j5t.io/` and can be a record's by its form: a path, a path
//! and a key, or a path and `_metadata`. An object that names another application than the Go operator is somebody
//! else's unless its label is `secrets/…`. What cannot be a record is never read, and nothing of others is ever
//! touched.
//!
//! | objects | record |
//! |---|---|
//! | `P/K` | the value of the key K of P |
//! | `P` | the value of the key `data` of P; where P is `secrets/NAMESPACE/NAME`, has no other object and nothing shows that the Go operator made it, a JSON object of texts is the whole record |
//! | `P/_metadata` | description, labels and attributes of P in JSON; with the label `sync.deleted: "true"` P is not present, whatever else is there |
//!
//! `a/b` can be the key b of a, or the data of a/b: the path that is asked for decides. A listing shows the reading
//! that metadata speak for, else the form `secrets/NAMESPACE/NAME[/KEY]`, else `NAME` and `NAME/KEY`. As long as two
//! readings of one object are both anchored (metadata, or other objects that only they explain), neither record is
//! written: destroying the object for the sake of one would take it from the other. Nor is the record of a reading for
//! which less speaks: `secrets/n`, of which `secrets/n/db` might be a key, is not written while that is there.
//!
//! Two objects with one label and one value are one; with different values, which one counts would be a guess: the
//! record is unknown, and so it is when one of its objects cannot be read.
//!
//! # Which version it has
//!
//! A foreign record has no version, and gets one that follows from its content, so that every token with this content
//! says the same: two mirrors of the Go operator are equal without anything being written. Its incarnation and its
//! writer are each the first 8 bytes of SHA-256 over a domain (`hsm.j5t.io/foreign/life/v1`, `…/writer/v1`) and the
//! record's content digest (`hsm_types::Digest::of`, path included) for the incarnation of eight zero bytes. The epoch's
//! number is 0, which no writer of ours gives, and the counter 1.
//! - The first write of ours begins epoch 1 of that life, and its lineage names epoch 0: every copy that is still as it
//!   was found is behind, on whatever token it is.
//! - A tombstone of that life kills exactly this content, wherever it shows up again. Other content that somebody writes
//!   under the same label is another life, so it is neither killed nor mistaken for the old one.
//!
//! # How it becomes ours
//!
//! Our object is written with the very version and content that was read, and read back. When the flash has settled,
//! each foreign object is read again and destroyed only if all that it says is in our record at this moment; and only
//! when that has settled too does anything else happen to the record (a new value, a tombstone). So:
//! - at every moment the record is wholly the old or wholly the new one, and no value is on the token less than once;
//! - half of a destroyed record is never taken for a record, because ours is there as long as a part of theirs is;
//! - what somebody wrote by hand beside a record of ours is never destroyed: it says something that ours does not.

pub(crate) mod content;
pub(crate) mod names;
