//! When the capacity of a secondary may be used for a primary.
//!
//! All rules are checked here, on the server, and a refusal names the one that was broken. Afterwards the primary keeps its
//! name, URL and keys, runs in the secondary's region with the secondary's capacity, and the secondary is gone.

use farshore_core::ids::{Name, Region};
use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::spec::memory_mib;

/// Whether a service answers its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    Healthy,
    /// It was seen not to answer.
    Unhealthy,
    /// Nobody knows.
    Unknown,
}

/// What the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Where it runs.
    pub region: Region,
    /// Its capacity.
    pub mode: Mode,
    /// How many instances it runs.
    pub instances: u32,
    /// Whether it answers.
    pub state: State,
    /// A migration of this name is under way, as primary or as secondary.
    pub migrating: bool,
}

/// What the primary has after a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Where it runs then.
    pub region: Region,
    /// The secondary's mode.
    pub mode: Mode,
    /// As many as it had, as far as the mode allows.
    pub instances: u32,
}

/// The rule that a migration breaks. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One service cannot be its own reserve.
    #[error("{0} cannot be recovered onto itself: name another service as the secondary")]
    SameName(Name),
    /// A reserve in the lost region is none.
    #[error("{primary} and {secondary} are both in {region}: the secondary must be in another region")]
    SameRegion {
        /// The service to recover.
        primary: Name,
        /// The reserve.
        secondary: Name,
        /// Where both are.
        region: Region,
    },
    /// The reserve is too small.
    #[error("{secondary} is {has}, but {primary} is {needs}: scale the secondary to {needs} or higher first")]
    TooSmall {
        /// The service to recover.
        primary: Name,
        /// Its mode.
        needs: Mode,
        /// The reserve.
        secondary: Name,
        /// Its mode.
        has: Mode,
    },
    /// The reserve does not answer.
    #[error("the secondary {0} is not healthy: mend it or choose another")]
    SecondaryNotHealthy(Name),
    /// There is nothing to recover.
    #[error("{0} is healthy: migrating it would interrupt it; use --force to do it all the same")]
    PrimaryHealthy(Name),
    /// One migration of a name at a time.
    #[error("a migration of {0} is under way: wait for its end")]
    UnderWay(Name),
}

/// Whether `primary` may be recovered onto the capacity of `secondary`, and what it has then.
///
/// # Errors
/// The first rule that is broken, in the order in which a person would mend them.
pub fn check(primary: &Service, secondary: &Service, force: bool) -> Result<Capacity, Refusal> {
    if primary.name == secondary.name {
        return Err(Refusal::SameName(primary.name.clone()));
    }
    if let Some(busy) = [primary, secondary].into_iter().find(|service| service.migrating) {
        return Err(Refusal::UnderWay(busy.name.clone()));
    }
    if primary.region == secondary.region {
        return Err(Refusal::SameRegion {
            primary: primary.name.clone(),
            secondary: secondary.name.clone(),
            region: primary.region.clone(),
        });
    }
    if secondary.mode < primary.mode {
        return Err(Refusal::TooSmall {
            primary: primary.name.clone(),
            needs: primary.mode,
            secondary: secondary.name.clone(),
            has: secondary.mode,
        });
    }
    if secondary.state != State::Healthy {
        return Err(Refusal::SecondaryNotHealthy(secondary.name.clone()));
    }
    if primary.state == State::Healthy && !force {
        return Err(Refusal::PrimaryHealthy(primary.name.clone()));
    }
    let instances = primary.instances.clamp(1, secondary.mode.instances_max());
    Ok(Capacity { region: secondary.region.clone(), mode: secondary.mode, instances })
}

/// What a reserve lacks to take over all that an app has, as the options of `farshore app scale`; each is a mode and how many
/// instances there are of it. `None`: it is large enough.
#[must_use]
pub fn scale_to_fit(reserve: (Mode, u32), app: (Mode, u32)) -> Option<String> {
    let mib = |(mode, instances): (Mode, u32)| memory_mib(mode) * u64::from(instances);
    if reserve.0 < app.0 {
        let more = if reserve.1 < app.1 { format!(" --instances {}", app.1) } else { String::new() };
        return Some(format!("--mode {}{more}", app.0));
    }
    (mib(reserve) < mib(app)).then(|| format!("--instances {}", mib(app).div_ceil(memory_mib(reserve.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, region: &str, mode: Mode, state: State) -> Service {
        let (name, region) = (Name::parse(name).unwrap(), Region::parse(region).unwrap());
        Service { name, region, mode, instances: 3, state, migrating: false }
    }

    fn lost() -> Service {
        service("todo", "paris", Mode::Basic, State::Unhealthy)
    }

    fn reserve() -> Service {
        service("spare", "oslo", Mode::Standard, State::Healthy)
    }

    fn why(primary: &Service, secondary: &Service) -> String {
        check(primary, secondary, false).unwrap_err().to_string()
    }

    #[test]
    fn a_lost_service_gets_the_region_and_the_mode_of_its_reserve() {
        let capacity = check(&lost(), &reserve(), false).unwrap();
        assert_eq!(
            (capacity.region.as_str(), capacity.mode, capacity.instances),
            ("oslo", Mode::Standard, 3)
        );
    }

    #[test]
    fn the_reserve_must_be_as_large_for_every_pair_of_modes() {
        for needs in Mode::ALL {
            for has in Mode::ALL {
                let (primary, secondary) =
                    (Service { mode: needs, ..lost() }, Service { mode: has, ..reserve() });
                let taken = check(&primary, &secondary, false);
                assert_eq!(taken.is_ok(), has >= needs, "{needs} onto {has}");
                if let Ok(capacity) = taken {
                    assert!(capacity.instances >= 1 && capacity.instances <= has.instances_max());
                }
            }
        }
    }

    #[test]
    fn what_a_reserve_lacks_is_what_it_is_to_be_scaled_to() {
        let check = |reserve, app, expected: Option<&str>| {
            assert_eq!(scale_to_fit(reserve, app).as_deref(), expected, "{reserve:?} for {app:?}");
        };
        check((Mode::Free, 1), (Mode::Basic, 1), Some("--mode basic"));
        check((Mode::Free, 1), (Mode::Basic, 3), Some("--mode basic --instances 3"));
        check((Mode::Basic, 1), (Mode::Basic, 3), Some("--instances 3"));
        check((Mode::Standard, 1), (Mode::Basic, 5), Some("--instances 2"));
        check((Mode::Standard, 1), (Mode::Basic, 4), None);
        check((Mode::Basic, 2), (Mode::Basic, 2), None);
        check((Mode::Basic, 1), (Mode::Free, 1), None);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let (lost, reserve) = (lost(), reserve());
        assert!(why(&lost, &lost).contains("onto itself"));
        assert!(
            why(&lost, &Service { region: lost.region.clone(), ..reserve.clone() }).contains("both in paris")
        );
        let small = Service { mode: Mode::Free, ..reserve.clone() };
        assert_eq!(
            why(&lost, &small),
            "spare is free, but todo is basic: scale the secondary to basic or higher first"
        );
        for state in [State::Unhealthy, State::Unknown] {
            assert!(why(&lost, &Service { state, ..reserve.clone() }).contains("spare is not healthy"));
        }
        assert!(why(&Service { migrating: true, ..lost.clone() }, &reserve).contains("migration of todo"));
        assert!(why(&lost, &Service { migrating: true, ..reserve }).contains("migration of spare"));
    }

    #[test]
    fn a_healthy_primary_is_moved_only_by_force() {
        let running = Service { state: State::Healthy, ..lost() };
        assert_eq!(check(&running, &reserve(), false), Err(Refusal::PrimaryHealthy(running.name.clone())));
        assert!(check(&running, &reserve(), true).is_ok());
        assert!(check(&Service { state: State::Unknown, ..running }, &reserve(), false).is_ok());
    }
}
