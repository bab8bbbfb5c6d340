//! What to do next, decided from what was seen. Pure: no file, no clock, no socket.

use std::time::{Duration, Instant};

/// Which file a name leads to. A socket made anew has another change time even where the inode number is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) changed: (i64, i64),
}

impl FileId {
    /// Whether it is the same file, though its mode or label may have been changed.
    pub(crate) fn is_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What the directory and our server look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The kubelet's socket.
    pub(crate) kubelet: Option<FileId>,
    /// Whether our registered socket is still in the directory.
    pub(crate) ours: bool,
    /// Since when no ListAndWatch stream has been open; `None` while one is.
    pub(crate) silent_since: Option<Instant>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bind a new socket and register it with this kubelet.
    Offer(FileId),
    /// Look again after this long, or when something happens.
    Wait(Option<Duration>),
}

/// How attempts are spaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The pause after the first attempt; doubles with each further one.
    pub(crate) first: Duration,
    /// The longest pause.
    pub(crate) longest: Duration,
    /// How long a registered plugin may be without a stream.
    pub(crate) silence: Duration,
    /// After this long without trouble, attempts are counted from zero.
    pub(crate) steady: Duration,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// The kubelet that was last tried, how often, and when the last time.
    tried: Option<(FileId, u32, Instant)>,
    registered: bool,
}

impl Course {
    /// Decides. The registration's own socket, its stream and the kubelet's socket must all be there.
    pub(crate) fn next(&self, pace: &Pace, seen: &Seen, now: Instant) -> Step {
        let Some(kubelet) = seen.kubelet else {
            // It makes its socket after it has wiped the directory: before that there is nothing to do.
            return Step::Wait(None);
        };
        let Some((_, attempts, last)) = self.tried.filter(|(tried, ..)| *tried == kubelet) else {
            return Step::Offer(kubelet);
        };
        if self.registered && seen.ours {
            let Some(since) = seen.silent_since else { return Step::Wait(None) };
            let left = pace.silence.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                return Step::Wait(Some(left));
            }
        }
        let since = now.saturating_duration_since(last);
        // A steady registration that is lost is taken up again at once; one that keeps being lost is not a storm.
        let pause =
            if self.registered && since >= pace.steady { Duration::ZERO } else { pause(pace, attempts) };
        match pause.saturating_sub(since) {
            Duration::ZERO => Step::Offer(kubelet),
            left => Step::Wait(Some(left)),
        }
    }

    /// Notes an attempt and how it ended.
    pub(crate) fn tried(&mut self, pace: &Pace, kubelet: FileId, accepted: bool, now: Instant) {
        let attempts = match self.tried {
            Some((tried, attempts, last)) if tried == kubelet => {
                let steady = self.registered && now.saturating_duration_since(last) >= pace.steady;
                if steady { 0 } else { attempts }
            }
            _ => 0,
        };
        self.tried = Some((kubelet, attempts.saturating_add(1), now));
        self.registered = accepted;
    }
}

fn pause(pace: &Pace, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    pace.first.saturating_mul(1 << doublings).min(pace.longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        first: Duration::from_millis(200),
        longest: Duration::from_secs(30),
        silence: Duration::from_secs(2),
        steady: Duration::from_mins(1),
    };

    fn file(inode: u64) -> FileId {
        FileId { device: 1, inode, changed: (0, 0) }
    }

    fn seen(kubelet: u64) -> Seen {
        Seen { kubelet: Some(file(kubelet)), ours: true, silent_since: None }
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn without_a_kubelet_nothing_is_done_and_a_new_one_is_served_at_once() {
        let (mut course, start) = (Course::default(), Instant::now());
        let absent = Seen { kubelet: None, ours: false, silent_since: Some(start) };
        assert_eq!(course.next(&PACE, &absent, start), Step::Wait(None));
        assert_eq!(course.next(&PACE, &seen(1), start), Step::Offer(file(1)));
        course.tried(&PACE, file(1), true, start);
        assert_eq!(course.next(&PACE, &seen(1), start), Step::Wait(None));
        // A restart right after: the pause is the old kubelet's, not the new one's.
        assert_eq!(course.next(&PACE, &seen(2), start), Step::Offer(file(2)));
    }

    #[test]
    fn failures_are_spaced_ever_wider() {
        let (mut course, mut now) = (Course::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            course.tried(&PACE, file(1), false, now);
            let Step::Wait(Some(pause)) = course.next(&PACE, &seen(1), now) else { panic!("no pause") };
            pauses.push(pause.as_millis());
            now += pause;
            assert_eq!(course.next(&PACE, &seen(1), now), Step::Offer(file(1)));
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    }

    #[test]
    fn a_lost_socket_or_stream_is_mended() {
        let (mut course, start) = (Course::default(), Instant::now());
        course.tried(&PACE, file(1), true, start);
        let lost = Seen { ours: false, ..seen(1) };
        assert_eq!(course.next(&PACE, &lost, start), Step::Wait(Some(PACE.first)));
        assert_eq!(course.next(&PACE, &lost, after(start, 200)), Step::Offer(file(1)));
        let silent = Seen { silent_since: Some(start), ..seen(1) };
        assert_eq!(
            course.next(&PACE, &silent, after(start, 1500)),
            Step::Wait(Some(Duration::from_millis(500)))
        );
        assert_eq!(course.next(&PACE, &silent, after(start, 2000)), Step::Offer(file(1)));
    }

    #[test]
    fn a_kubelet_that_keeps_hanging_up_gets_no_storm_but_a_steady_one_is_forgiven() {
        let (mut course, mut now) = (Course::default(), Instant::now());
        let mut silent = seen(1);
        for _ in 0..8 {
            course.tried(&PACE, file(1), true, now);
            silent.silent_since = Some(now);
            now += PACE.silence;
        }
        assert_eq!(course.next(&PACE, &silent, now), Step::Wait(Some(Duration::from_millis(23600))));
        now += PACE.steady;
        assert_eq!(course.next(&PACE, &silent, now), Step::Offer(file(1)));
        course.tried(&PACE, file(1), true, now);
        let lost = Seen { ours: false, ..seen(1) };
        assert_eq!(course.next(&PACE, &lost, now), Step::Wait(Some(PACE.first)), "counted from zero");
    }
}
