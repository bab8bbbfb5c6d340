//! Which objects are packed into one page when objects run short. Pure: it decides, `repack` acts.
//!
//! # Own objects, pages, chunks
//!
//! While objects last, a record that fits has an object of its own, and the next version of it is one create and one
//! destroy of at most 500 bytes, which leaks no flash. A record larger than an object is cut into chunks of up to
//! 2000 bytes, each in an object of its own, with a head that is written last. When fewer than [`RESERVE`] objects are
//! free below the limit at rest, the longest unchanged records are packed into **pages** of up to 2000 bytes. A change
//! takes a record out of its page into an own object: one create, nothing destroyed. What it leaves in the page is a
//! hole, superseded by its version, until the page itself is packed anew.
//!
//! # A cleaner of a log
//!
//! Own objects are the head of a log and pages its segments; a packing step is the cleaner of a log-structured file
//! system. With pages of `n` records of which a share `u` lives, a page that is cleaned makes room for `n(1 − u)`
//! changed records and destroys one page, so `c` changed records cost `c / (n(1 − u))` pages: at n = 7 (records of
//! 150 bytes) and u = 0.8 one page of 2000 bytes for each 1.4 edits, at u = 0.5 one for each 3.5. Two own objects
//! that become a page destroy no page at all. So a step prefers own objects (destroying those leaks nothing), oldest
//! generation first, fills the holes of the emptiest pages with them, and merges pages alone only when nothing else
//! makes room. It leaves the [`HOT`] youngest own objects where they are as long as the others are worth a page:
//! what was just changed will be changed again. Each step writes one page and frees at least one object beyond it.
//!
//! # At the limit
//!
//! A new record is refused, before anything is destroyed, exactly when no sequence of such steps makes room for it.
//! Its own object may be part of the last step, so a hole in a page is room for it. A replacement that has not grown
//! always finds room: if nothing else does, it goes back to the page that it left. For that, a put uses at most one
//! object less than the limit in passing, which is kept for the page that takes it in; tombstones may use that one
//! too. A step never splits the records of one page over two, so pages of which none two
//! fit into one are as full as they get, even at half their size.
//!
//! # Measured
//!
//! `cargo run -p hsm-store --example wear` prints this table: records of 150 bytes, edited in random order, until the
//! flash that firmware 6.6 leaks (0.593 · (size + 357) bytes for a destroyed object of 900 bytes or more) fills 1 MiB.
//!
//! | records | edited | objects at rest | pages destroyed per 100 edits | edits until 1 MiB has leaked |
//! |---|---|---|---|---|
//! | 10 | 10 | 15 | 0.0 | no leak |
//! | 100 | 100 | 105 | 0.0 | no leak |
//! | 300 | 300 | 106 | 11.1 | 7336 |
//! | 500 | 500 | 107 | 18.7 | 4481 |
//! | 500 | 50 | 104 | 2.5 | 32212 |
//!
//! Packing every edit into a page would destroy 100 pages per 100 edits: 750 edits.

use crate::format::ObjectId;

/// Packing begins in the background when fewer objects than this are free below the limit at rest.
pub(super) const RESERVE: usize = 8;
/// So many of the youngest own objects stay out of pages while packing the others frees at least [`WORTH`].
pub(super) const HOT: usize = 8;
const WORTH: usize = 3;
/// Bytes that a page leaves free, so that a record that left it can come back as its next version: the page's name,
/// and what a version may have grown.
const SLACK: usize = 40;

/// An object whose living entries may move to a page.
#[derive(Debug, Clone)]
pub(super) struct Victim {
    /// Which one; none for an object that is only planned.
    pub(super) id: Option<ObjectId>,
    pub(super) generation: u64,
    /// The bytes of its living entries in a page.
    pub(super) live: usize,
    /// The bytes whose destruction leaks flash: all of it, or none.
    pub(super) leak: usize,
    /// Whether the page must name it as replaced.
    pub(super) named: bool,
    /// Whether it holds tombstones that are needed.
    pub(super) tombstones: bool,
    /// Whether all that it replaces is gone for good.
    pub(super) ready: bool,
}

/// What a page holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The longest value of an object.
    pub(super) object: usize,
    /// What a sealed object costs beside its entries.
    pub(super) overhead: usize,
    /// Up to this size nothing leaks.
    pub(super) lasting: usize,
}

/// Which victims go into one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Places in the list that it was made from.
    pub(super) chosen: Vec<usize>,
    /// How many objects are free when the page is there and they are gone.
    pub(super) freed: usize,
    /// Bytes worth of objects freed less bytes that leak: below 0 it is only for want of anything better.
    pub(super) score: i64,
}

impl Victim {
    /// What it takes in a page.
    fn room(&self) -> usize {
        self.live + if self.named { size_of::<ObjectId>() } else { 0 }
    }
}

impl Shape {
    fn capacity(self) -> usize {
        self.object.saturating_sub(self.overhead + SLACK)
    }

    /// Whether a page that a record has left takes it in again, as an own object of so many bytes in a page.
    pub(super) fn takes_back(self, page: &Victim, own: usize) -> bool {
        page.room() + own + self.overhead <= self.object
    }

    fn leak(self, size: usize) -> usize {
        if size > self.lasting { size } else { 0 }
    }
}

/// The best page to write next, if any frees an object.
pub(super) fn plan(victims: &[Victim], shape: Shape) -> Option<Plan> {
    let cold = best(victims, shape, HOT, false);
    if cold.as_ref().is_some_and(|plan| plan.freed >= WORTH) {
        return cold;
    }
    let all = best(victims, shape, 0, false);
    let better = match (cold, all) {
        (Some(cold), Some(all)) => Some(if all.score > cold.score { all } else { cold }),
        (cold, all) => cold.or(all),
    };
    // Tombstones stay by themselves unless that costs an object that is needed.
    better.or_else(|| best(victims, shape, 0, true))
}

/// Tries the emptiest pages, none to as many as fit, each time filled up with own objects, oldest first.
fn best(victims: &[Victim], shape: Shape, spared: usize, tombstones: bool) -> Option<Plan> {
    let capacity = shape.capacity();
    let room_of = Victim::room;
    let usable = |number: &usize| tombstones || !victims[*number].tombstones;
    let of_kind = |leaks: bool| (0..victims.len()).filter(move |n| (victims[*n].leak > 0) == leaks);
    let mut own: Vec<usize> = of_kind(false).filter(usable).collect();
    own.sort_by_key(|number| victims[*number].generation);
    own.truncate(own.len().saturating_sub(spared));
    let mut pages: Vec<usize> = of_kind(true).filter(usable).collect();
    pages.sort_by_key(|number| (victims[*number].live, victims[*number].generation));

    let mut best: Option<Plan> = None;
    let mut chosen = Vec::new();
    let (mut size, mut leak) = (0, 0);
    let mut next = pages.into_iter();
    loop {
        let mut filled = chosen.clone();
        let mut full = size;
        for number in &own {
            if full + room_of(&victims[*number]) <= capacity {
                full += room_of(&victims[*number]);
                filled.push(*number);
            }
        }
        let freed = filled.len().saturating_sub(1);
        let score = signed(freed * shape.object) - signed(leak);
        let better = best.as_ref().is_none_or(|best| (score, freed) > (best.score, best.freed));
        if freed > 0 && better {
            best = Some(Plan { chosen: filled, freed, score });
        }
        let Some(page) = next.next().filter(|page| size + room_of(&victims[*page]) <= capacity) else {
            return best;
        };
        size += room_of(&victims[page]);
        leak += victims[page].leak;
        chosen.push(page);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// How many objects packing could free, one step after another; stops at `wanted`.
pub(super) fn could_free(mut victims: Vec<Victim>, shape: Shape, wanted: usize) -> usize {
    let mut freed = 0;
    while freed < wanted {
        let Some(plan) = plan(&victims, shape) else {
            break;
        };
        freed += plan.freed;
        let mut page = Victim {
            id: None,
            generation: u64::MAX,
            live: 0,
            leak: 0,
            named: true,
            tombstones: false,
            ready: true,
        };
        let mut rest = Vec::with_capacity(victims.len());
        for (number, victim) in victims.into_iter().enumerate() {
            if plan.chosen.contains(&number) {
                page.live += victim.live;
                page.tombstones |= victim.tombstones;
            } else {
                rest.push(victim);
            }
        }
        page.leak = shape.leak(page.live + shape.overhead);
        rest.push(page);
        victims = rest;
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { object: 2000, overhead: 49, lasting: 500 };

    fn own(generation: u64) -> Victim {
        Victim { id: None, generation, live: 250, leak: 0, named: false, tombstones: false, ready: true }
    }

    fn page(generation: u64, records: usize) -> Victim {
        Victim { live: 250 * records, leak: 1800, named: true, ..own(generation) }
    }

    fn chosen(victims: &[Victim]) -> Vec<u64> {
        let plan = plan(victims, SHAPE).unwrap();
        let mut chosen: Vec<u64> = plan.chosen.iter().map(|n| victims[*n].generation).collect();
        chosen.sort_unstable();
        chosen
    }

    #[test]
    fn cold_own_objects_go_first_and_hot_ones_stay() {
        let mut victims: Vec<Victim> = (1..=20).map(own).collect();
        victims.push(page(100, 1));
        assert_eq!(chosen(&victims), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn holes_are_filled_when_own_objects_alone_are_worth_less() {
        let victims = vec![page(1, 7), page(2, 3), page(3, 6), own(10), own(11), own(12)];
        assert_eq!(chosen(&victims), [2, 10, 11, 12]);
    }

    #[test]
    fn pages_alone_are_merged_only_where_two_fit_into_one() {
        assert_eq!(chosen(&[page(1, 4), page(2, 3)]), [1, 2]);
        assert!(plan(&[page(1, 4), page(2, 3)], SHAPE).unwrap().score < 0);
        assert_eq!(plan(&[page(1, 4), page(2, 4)], SHAPE), None);
        assert_eq!(plan(&[own(1)], SHAPE), None);
        assert_eq!(plan(&[], SHAPE), None);
    }

    #[test]
    fn tombstones_join_a_page_only_for_want_of_anything_else() {
        let tombstones = Victim { tombstones: true, ..own(1) };
        assert_eq!(chosen(&[tombstones.clone(), own(2), own(3)]), [2, 3]);
        assert_eq!(chosen(&[tombstones, own(2)]), [1, 2]);
    }

    #[test]
    fn what_packing_could_free_is_counted_to_the_end() {
        assert_eq!(could_free((1..=21).map(own).collect(), SHAPE, 100), 18);
        assert_eq!(could_free((1..=21).map(own).collect(), SHAPE, 5), 6);
        assert_eq!(could_free(vec![page(1, 7), page(2, 6)], SHAPE, 1), 0);
        // A hole is room for one more.
        assert_eq!(could_free(vec![page(1, 7), page(2, 6), own(3)], SHAPE, 1), 1);
    }
}
