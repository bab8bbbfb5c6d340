//! The secret values themselves.
//!
//! Payloads are radioactive: no `Debug`, no `Clone`, no serialisation, wiped when dropped. Whoever needs a second
//! copy says so by name ([`Payload::duplicate`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;

use zeroize::Zeroizing;

use crate::Key;

/// One value of a record, 0 bytes or more; wiped when dropped.
pub struct Value(Zeroizing<Vec<u8>>);

impl Value {
    /// Takes ownership of the bytes, so that they are wiped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes in clear.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// The values of a record by key, in the byte order of the keys; wiped when dropped.
#[derive(Default)]
pub struct Payload(BTreeMap<Key, Value>);

impl Payload {
    /// A payload without values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one value; the previous one is wiped.
    pub fn insert(&mut self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    /// Takes one value out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// One value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All values in the byte order of their keys.
    pub fn iter(&self) -> Iter<'_, Key, Value> {
        self.0.iter()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of the lengths of keys and values, in bytes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(k, v)| k.as_str().len() + v.expose().len()).sum()
    }

    /// A second copy in memory, which is wiped on its own. Deliberately not `Clone`.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.iter().map(|(k, v)| (k.clone(), Value::new(v.expose().to_vec()))).collect())
    }

    /// Whether both hold the same keys with the same bytes. For equality of local copies, not for checking guesses.
    pub fn same_as(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.iter().zip(other.iter()).all(|((k, v), (l, w))| k == l && v.expose() == w.expose())
    }
}

impl FromIterator<(Key, Value)> for Payload {
    fn from_iter<I: IntoIterator<Item = (Key, Value)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Payload {
    type Item = (&'a Key, &'a Value);
    type IntoIter = Iter<'a, Key, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
