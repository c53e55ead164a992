//! Mending: what a disk has spoilt in a log here is asked for from the other region, whose copy has the same bytes at the same
//! offsets. Nothing comes this way that was not here before, so it is asked for in whatever role.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::Region;
use farshore_core::workload::StepError;
use tokio::time::{MissedTickBehavior, interval};

use super::wire::{Piece, Wanted, decode, encode_wanted};
use super::{LinkOptions, Shared};
use crate::telemetry::{Damage, RawBatch, TelemetryError};

/// Damage is looked for this often among what is known; until it is mended, readers wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first piece that is asked for: most damage is a sector or two.
const PIECE_MIN: u32 = 64 << 10;
/// The largest: what was lost is much, and each piece costs looking at the file.
const PIECE_MAX: u32 = 8 << 20;
/// Pieces for one log at one look; then the others have their turn.
const PIECES_MAX: usize = 64;

/// Looks for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !shared.state().is_up() {
            continue;
        }
        let mut lost = Vec::new();
        for origin in damaged(&shared) {
            lost.extend(mend(&shared, &origin).await);
        }
        shared.state().status.lost = lost;
    }
}

/// The regions whose logs are damaged here.
fn damaged(shared: &Shared) -> Vec<Region> {
    let mut regions: Vec<_> =
        shared.options.telemetry.damages().into_iter().map(|damage| damage.region).collect();
    regions.sort_unstable();
    regions.dedup();
    regions
}

/// Mends what can be mended of a log; returns why the rest cannot, in words.
async fn mend(shared: &Shared, origin: &Region) -> Vec<String> {
    let telemetry = &shared.options.telemetry;
    let mut left: Vec<_> =
        telemetry.damages().into_iter().filter(|damage| damage.region == *origin).collect();
    let (mut given_up, mut lost) = (Vec::new(), Vec::new());
    let (mut bytes, mut reached) = (PIECE_MIN, None);
    for _ in 0..PIECES_MAX {
        let is_open = |damage: &&Damage| !given_up.contains(&damage.offset);
        let Some(damage) = left.iter().find(is_open).cloned() else { break };
        bytes = if reached == Some(damage.offset) { (bytes * 2).min(PIECE_MAX) } else { PIECE_MIN };
        let mended = match want(shared, &damage, bytes).await {
            Ok(piece) => {
                reached = Some(piece.next);
                telemetry.mend(piece).await.map_err(|error| error.to_string())
            }
            Err(why) => Err(why),
        };
        let why = match mended {
            Ok(now) if now.iter().all(|still| still.offset != damage.offset) => {
                tracing::info!(region = %origin, from = damage.offset, "a damaged log was mended from the other region");
                left = now;
                continue;
            }
            Ok(_) => "its copy does not fit".to_owned(),
            Err(why) => why,
        };
        given_up.push(damage.offset);
        lost.push(words(&damage, &shared.options.partner, &why));
    }
    lost
}

fn words(damage: &Damage, partner: &Region, why: &str) -> String {
    let Damage { region, offset, next, file, .. } = damage;
    format!(
        "events {offset} to {next} (not included) of {region} cannot be read in {} and {partner} does not give them ({why}): \
         restore that file, or go on reading at {next}",
        file.display()
    )
}

/// Asks for the events that should be where a log is damaged.
async fn want(shared: &Shared, damage: &Damage, bytes: u32) -> Result<RawBatch, String> {
    let LinkOptions { far, partner, item, duties, .. } = &shared.options;
    let wanted = Wanted { token: duties.token(), origin: damage.region.clone(), from: damage.offset, bytes };
    let answer = far.pull(partner, item, encode_wanted(&wanted)).await.map_err(|error| error.to_string())?;
    let Piece { token, given } = decode(&answer)?;
    duties
        .see(token)
        .map_err(|stale| format!("{partner} is under token {token}, {} holds", stale.highest))?;
    let piece = given?;
    let is_asked_for =
        piece.origin == damage.region && piece.from == damage.offset && piece.next > piece.from;
    is_asked_for.then_some(piece).ok_or_else(|| "it gives other events".to_owned())
}

/// What the other region wants to mend its log with, or why it cannot have it.
pub(super) async fn give(shared: &Shared, wanted: Wanted) -> Result<Piece, StepError> {
    let LinkOptions { telemetry, duties, .. } = &shared.options;
    duties.see(wanted.token).map_err(|stale| StepError::Fenced { current: stale.highest })?;
    let telemetry = telemetry.clone();
    let read = tokio::task::spawn_blocking(move || {
        let Wanted { origin, from, bytes, .. } = wanted;
        match telemetry.raw(&origin, from, usize::try_from(bytes).unwrap_or(usize::MAX)) {
            Ok(piece) if piece.next > from => Ok(piece),
            Ok(_) | Err(TelemetryError::Beyond { .. }) => Err("it has not got so far".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    let given = read.await.map_err(|error| StepError::Retry { what: error.to_string() })?;
    Ok(Piece { token: duties.token(), given })
}
