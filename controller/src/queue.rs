//! The work queue: two lanes, each key at most once, never twice at the same time. Pure: time is an argument.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::key::ObjectKey;

/// Which work goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Comparing again what was equal.
    Refresh,
    /// New, or changed on one side.
    Fresh,
}

impl Lane {
    /// The metrics' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Fresh => "fresh",
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    queued: Option<(Lane, Instant)>,
    running: bool,
    timer: Option<(Instant, u64)>,
}

/// What [`Queue::pop`] hands out.
#[derive(Debug, PartialEq, Eq)]
pub struct Work {
    /// Whose turn it is.
    pub key: ObjectKey,
    /// From which lane.
    pub lane: Lane,
    /// When it was first asked for.
    pub since: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    fresh: VecDeque<ObjectKey>,
    refresh: VecDeque<ObjectKey>,
    entries: HashMap<ObjectKey, Entry>,
    timers: BTreeMap<(Instant, u64), (ObjectKey, Lane)>,
    serial: u64,
}

impl Queue {
    /// Asks for a turn. A key that waits already keeps its place, or moves to the better lane.
    pub fn push(&mut self, key: &ObjectKey, lane: Lane, now: Instant) {
        let entry = self.entries.entry(key.clone()).or_default();
        let since = match entry.queued {
            Some((old, _)) if old >= lane => return,
            Some((_, since)) => since,
            None => now,
        };
        entry.queued = Some((lane, since));
        if !entry.running {
            self.lane(lane).push_back(key.clone());
        }
    }

    /// Asks for a turn later. Each key has one timer, the earliest.
    pub fn push_at(&mut self, key: &ObjectKey, lane: Lane, at: Instant) {
        self.serial += 1;
        let slot = (at, self.serial);
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.timer {
            Some((earlier, _)) if earlier <= at => return,
            Some(old) => {
                self.timers.remove(&old);
            }
            None => {}
        }
        entry.timer = Some(slot);
        self.timers.insert(slot, (key.clone(), lane));
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Moves what is due into the lanes.
    pub fn tick(&mut self, now: Instant) {
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                return;
            }
            let (key, lane) = first.remove();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.timer = None;
            }
            self.push(&key, lane, now);
        }
    }

    /// The next key; it is running until [`Queue::done`].
    pub fn pop(&mut self) -> Option<Work> {
        for lane in [Lane::Fresh, Lane::Refresh] {
            while let Some(key) = self.lane(lane).pop_front() {
                let Some(entry) = self.entries.get_mut(&key) else { continue };
                // A key that moved to the better lane leaves its old place behind.
                if entry.running || entry.queued.is_none_or(|(queued, _)| queued != lane) {
                    continue;
                }
                let since = entry.queued.take().map(|(_, since)| since)?;
                entry.running = true;
                if let Some(timer) = entry.timer.take() {
                    self.timers.remove(&timer);
                }
                return Some(Work { key, lane, since });
            }
        }
        None
    }

    /// The key's turn is over; if it was asked for meanwhile, it waits again.
    pub fn done(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.running = false;
        match entry.queued {
            Some((lane, _)) => self.lane(lane).push_back(key.clone()),
            None if entry.timer.is_none() => {
                self.entries.remove(key);
            }
            None => {}
        }
    }

    /// How many keys wait in a lane.
    pub fn depth(&self, lane: Lane) -> usize {
        match lane {
            Lane::Fresh => self.fresh.len(),
            Lane::Refresh => self.refresh.len(),
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<ObjectKey> {
        match lane {
            Lane::Fresh => &mut self.fresh,
            Lane::Refresh => &mut self.refresh,
        }
    }
}

/// How long to wait after this many failures in a row: doubling from half a second to a minute, of which a random
/// half is waited in any case.
pub fn backoff(failures: u32, chance: u64) -> Duration {
    let ceiling = 500u64.saturating_mul(1 << failures.min(10)).min(60_000);
    Duration::from_millis(ceiling / 2 + chance % (ceiling / 2 + 1))
}

/// The interval, up to a tenth shorter or longer.
pub fn jittered(interval: Duration, chance: u64) -> Duration {
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis - millis / 10 + chance % (millis / 5 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn popped(queue: &mut Queue) -> Option<String> {
        queue.pop().map(|work| work.key.name)
    }

    #[test]
    fn fresh_goes_first_and_each_key_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), Lane::Refresh, now);
        queue.push(&key("b"), Lane::Refresh, now);
        queue.push(&key("c"), Lane::Fresh, now);
        queue.push(&key("c"), Lane::Fresh, now);
        queue.push(&key("b"), Lane::Fresh, now);
        queue.push(&key("b"), Lane::Refresh, now);
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue)).collect();
        assert_eq!(order, ["c", "b", "a"]);
    }

    #[test]
    fn a_running_key_is_not_handed_out_again_until_done() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), Lane::Fresh, now);
        assert_eq!(popped(&mut queue), Some("a".to_owned()));
        queue.push(&key("a"), Lane::Refresh, now);
        queue.push(&key("a"), Lane::Fresh, now);
        assert_eq!(popped(&mut queue), None);
        queue.done(&key("a"));
        assert_eq!(popped(&mut queue), Some("a".to_owned()));
        queue.done(&key("a"));
        assert_eq!(popped(&mut queue), None);
        assert!(queue.entries.is_empty());
    }

    #[test]
    fn one_timer_a_key_the_earliest_and_a_turn_takes_it_away() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        queue.push_at(&key("a"), Lane::Refresh, at(10));
        queue.push_at(&key("a"), Lane::Fresh, at(5));
        queue.push_at(&key("a"), Lane::Refresh, at(20));
        assert_eq!(queue.next_timer(), Some(at(5)));
        queue.tick(at(4));
        assert_eq!(popped(&mut queue), None);
        queue.tick(at(6));
        assert_eq!(popped(&mut queue), Some("a".to_owned()));
        assert_eq!(queue.next_timer(), None);
        queue.push_at(&key("a"), Lane::Refresh, at(30));
        queue.done(&key("a"));
        assert_eq!(queue.next_timer(), Some(at(30)));
    }

    #[test]
    fn backoff_grows_to_a_minute_and_never_hits_zero() {
        assert!(backoff(0, 0) >= Duration::from_millis(250));
        assert!(backoff(0, u64::MAX) <= Duration::from_millis(500));
        assert!(backoff(40, u64::MAX) <= Duration::from_mins(1));
        assert!(backoff(40, 0) >= Duration::from_secs(30));
        let five = Duration::from_mins(5);
        assert!((270..=330).contains(&jittered(five, 0).as_secs()));
        assert!((270..=330).contains(&jittered(five, u64::MAX).as_secs()));
    }
}
