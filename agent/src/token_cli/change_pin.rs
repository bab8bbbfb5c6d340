//! `change-pin`.

use std::path::Path;

use super::args::ChangePinArgs;
use super::output::{remark, say};
use super::pin_file::warn_if_short;
use super::{Failure, Outcome, find};
use crate::actor::PinSource;
use crate::config::SelectArgs;

pub(super) fn change_pin(select: &SelectArgs, args: &ChangePinArgs) -> Outcome {
    let chosen = find::chosen(select)?;
    let new = PinSource::new(Some(args.new_pin_file.clone())).current().map_err(Failure::Other)?;
    warn_if_short(&new);
    let old = super::session::pin(&chosen)?;
    let (mut worker, info) = super::session::connect(&chosen)?;
    crate::token_open::with_pin(&chosen, &info, &mut worker, |worker| worker.change_pin(&old, &new))?;
    let file = chosen.pin_file.as_deref().unwrap_or(Path::new("the PIN file"));
    say("The token's PIN was changed.");
    remark(&format!("Put the new PIN into {} wherever the token is used.", file.display()));
    Ok(())
}
