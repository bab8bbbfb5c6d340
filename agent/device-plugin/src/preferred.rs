//! Which of the available devices a container had better get.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::{Health, PluginDevice};

/// Why no choice can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoChoice {
    #[error("fewer devices are available than are wanted")]
    TooFew,
    #[error("more devices must be included than are wanted")]
    TooMany,
}

/// Chooses `size` ids: those that must be included, then devices on their NUMA node (without any, on the node that
/// has the most to offer), then the rest; healthy ones first, and by name so that the same question has the same
/// answer.
pub(crate) fn choose(
    devices: &[PluginDevice],
    available: &[String],
    must_include: &[String],
    size: usize,
) -> Result<Vec<String>, NoChoice> {
    if must_include.len() > size {
        return Err(NoChoice::TooMany);
    }
    let known = |id: &String| devices.iter().find(|device| device.id.as_str() == id);
    let node = |id: &String| known(id).and_then(|device| device.numa_node);
    let healthy = |id: &String| known(id).is_some_and(|device| device.health == Health::Healthy);

    let mut rest: Vec<&String> = available.iter().filter(|id| !must_include.contains(id)).collect();
    let anchor = must_include.iter().find_map(node).or_else(|| {
        let mut offers = BTreeMap::<u32, usize>::new();
        rest.iter()
            .filter(|id| healthy(id))
            .filter_map(|id| node(id))
            .for_each(|node| *offers.entry(node).or_default() += 1);
        offers.into_iter().max_by_key(|&(node, count)| (count, Reverse(node))).map(|(node, _)| node)
    });
    rest.sort_by_key(|id| {
        let near = anchor.is_some() && node(id) == anchor;
        (!healthy(id), !near, id.as_str())
    });
    rest.dedup();
    let chosen: Vec<String> = must_include.iter().chain(rest).take(size).cloned().collect();
    if chosen.len() < size { Err(NoChoice::TooFew) } else { Ok(chosen) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<PluginDevice> {
        [("a", Some(0)), ("b", Some(1)), ("c", Some(1)), ("d", None)]
            .map(|(id, numa_node)| PluginDevice {
                id: id.parse().unwrap(),
                health: Health::Healthy,
                numa_node,
            })
            .to_vec()
    }

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn devices_of_one_numa_node_go_together() {
        let choice = |available, must, size| choose(&devices(), &ids(available), &ids(must), size);
        assert_eq!(choice("d c b a", "", 2), Ok(ids("b c")), "the node with the most to offer");
        assert_eq!(choice("d c b a", "a", 2), Ok(ids("a b")), "nothing else there: by name");
        assert_eq!(choice("d c b a", "c", 3), Ok(ids("c b a")));
        assert_eq!(choice("d", "", 1), Ok(ids("d")));
    }

    #[test]
    fn an_unhealthy_device_is_the_last_choice() {
        let mut devices = devices();
        devices[1].health = Health::Unhealthy;
        assert_eq!(choose(&devices, &ids("a b c"), &[], 3), Ok(ids("a c b")));
    }

    #[test]
    fn a_question_without_an_answer_is_an_error() {
        assert_eq!(choose(&devices(), &ids("a a"), &[], 2), Err(NoChoice::TooFew));
        assert_eq!(choose(&devices(), &ids("a b"), &ids("a b"), 1), Err(NoChoice::TooMany));
    }
}
