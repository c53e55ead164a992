//! What losing one region would do, from the configuration alone: so that it is known before the night in which it happens.

use farshore_core::ids::Region;

use super::{NodeConfig, NodeRole, StoreKind};

/// Self-fencing items fail over by themselves only with so many independent places.
const DOMAINS_MIN: usize = 3;

/// How bad a consequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Goes on.
    Fine,
    /// Goes on with less than before, or needs a person.
    Reduced,
    /// Stops.
    Stops,
}

/// One thing that losing a region does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequence {
    /// How bad it is.
    pub weight: Weight,
    /// For people.
    pub what: String,
}

/// What losing `region` does to the cluster of `config`.
///
/// # Errors
/// When the configuration does not know the region; names those that it knows.
pub fn lose(config: &NodeConfig, region: &Region) -> Result<Vec<Consequence>, String> {
    if !config.regions.iter().any(|one| one.name == *region) {
        let known: Vec<&str> = config.regions.iter().map(|one| one.name.as_str()).collect();
        return Err(format!("there is no region {region} in [[regions]]; there are: {}", known.join(", ")));
    }
    let store = store(config, region);
    let writes = store.weight != Weight::Stops;
    Ok([
        store,
        control(config, region, writes),
        names(config, region),
        holding(config, region, writes),
        fencing(config, writes),
    ]
    .into_iter()
    .chain(realtime(config, region, writes))
    .collect())
}

fn store(config: &NodeConfig, lost: &Region) -> Consequence {
    let (weight, what) = match (&config.etcd, config.store) {
        (Some(etcd), StoreKind::Etcd) => {
            let all: usize = etcd.endpoints.values().map(|urls| urls.all().len()).sum();
            let gone = etcd.endpoints.get(lost).map_or(0, |urls| urls.all().len());
            let left = all - gone;
            let needed = all / 2 + 1;
            if left < needed {
                (
                    Weight::Stops,
                    format!(
                        "store: {left} of {all} etcd members are left and {needed} are needed: the control plane is read-only \
                         until {lost} is back; put the members into at least three regions"
                    ),
                )
            } else if gone == 0 {
                (Weight::Fine, format!("store: all {all} etcd members are left"))
            } else {
                let more = left - needed;
                (
                    Weight::Reduced,
                    format!(
                        "store: {left} of {all} etcd members are left, {needed} are needed: goes on, and can lose {more} more"
                    ),
                )
            }
        }
        _ if single_control(config).as_ref() == Some(lost) => (
            Weight::Stops,
            format!(
                "store: its only copy is in {lost}: no job runs until {lost} is back or its backup is restored (farshore store restore)"
            ),
        ),
        _ => (Weight::Fine, "store: it is in another region".to_owned()),
    };
    Consequence { weight, what }
}

/// The region of an embedded store: that of the node with the role control.
fn single_control(config: &NodeConfig) -> Option<Region> {
    if config.has(NodeRole::Control) {
        return Some(config.region.clone());
    }
    config.regions.iter().find(|region| region.control).map(|region| region.name.clone())
}

/// The regions with a control node that are left.
fn controls_left<'a>(config: &'a NodeConfig, lost: &Region) -> Vec<&'a Region> {
    let own = config.has(NodeRole::Control).then_some(&config.region);
    let listed = config.regions.iter().filter(|region| region.control).map(|region| &region.name);
    let mut left: Vec<&Region> = listed.chain(own).filter(|region| *region != lost).collect();
    left.sort();
    left.dedup();
    left
}

fn list(regions: &[&Region]) -> String {
    regions.iter().map(|region| region.as_str()).collect::<Vec<_>>().join(", ")
}

fn control(config: &NodeConfig, lost: &Region, writes: bool) -> Consequence {
    let left = controls_left(config, lost);
    let had = config.has(NodeRole::Control) && config.region == *lost
        || config.regions.iter().any(|region| region.control && region.name == *lost);
    if left.is_empty() {
        let what = "control: no control node is left: nothing can be asked or failed over; what runs goes on"
            .to_owned();
        return Consequence { weight: Weight::Stops, what };
    }
    let weight = if had || !writes { Weight::Reduced } else { Weight::Fine };
    let what = match (writes, had) {
        (false, _) => format!("control: {} answer what they last knew and take no orders", list(&left)),
        (true, true) => format!("control: jobs under way go on in {}", list(&left)),
        (true, false) => format!("control: {} go on as before", list(&left)),
    };
    Consequence { weight, what }
}

fn names(config: &NodeConfig, lost: &Region) -> Consequence {
    let left = controls_left(config, lost);
    if left.is_empty() {
        return Consequence {
            weight: Weight::Stops,
            what: "names: nobody is left to answer them".to_owned(),
        };
    }
    let how = if config.dns.is_some() { "DNS and concierge" } else { "the concierge" };
    Consequence { weight: Weight::Fine, what: format!("names: {how} answer in {}", list(&left)) }
}

fn holding(config: &NodeConfig, lost: &Region, writes: bool) -> Consequence {
    let others = config.regions.iter().filter(|region| region.name != *lost).count();
    let (weight, what) = if others == 0 {
        (Weight::Stops, format!("items: there is no other region to bring back what was active in {lost}"))
    } else if writes {
        (
            Weight::Reduced,
            format!(
                "items that hold (the default): what was active in {lost} waits for: farshore failover KIND/NAME --source-is-down"
            ),
        )
    } else {
        (
            Weight::Stops,
            format!(
                "items that hold (the default): what was active in {lost} cannot be failed over until the store takes writes; the others go on serving"
            ),
        )
    };
    Consequence { weight, what }
}

fn fencing(config: &NodeConfig, writes: bool) -> Consequence {
    let wait = config.fencing.timings().wait().as_secs();
    if config.store != StoreKind::Etcd || config.regions.len() < DOMAINS_MIN {
        return Consequence {
            weight: Weight::Reduced,
            what: format!(
                "items that fence themselves: not possible with fewer than {DOMAINS_MIN} regions and etcd, so nothing fails over \
                 by itself"
            ),
        };
    }
    if !writes {
        return Consequence {
            weight: Weight::Stops,
            what: "items that fence themselves: stop everywhere, because nobody can renew their right"
                .to_owned(),
        };
    }
    let what = format!(
        "items that fence themselves: fail over after a wait of {wait} s; by themselves where that is allowed"
    );
    Consequence { weight: Weight::Fine, what }
}

/// Two regions may serve a hub at once: any control node that can write fails it over.
fn realtime(config: &NodeConfig, lost: &Region, writes: bool) -> Option<Consequence> {
    let serving = config.regions.iter().filter(|region| region.realtime.is_some());
    let left = serving.clone().filter(|region| region.name != *lost).count();
    if serving.count() == 0 {
        return None;
    }
    Some(match (left, writes) {
        (0, _) => Consequence {
            weight: Weight::Stops,
            what: "real-time hubs: no other region serves any".to_owned(),
        },
        (_, true) => Consequence {
            weight: Weight::Fine,
            what: format!("real-time hubs: fail over by themselves, and come home when {lost} is back"),
        },
        (_, false) => Consequence {
            weight: Weight::Reduced,
            what: format!(
                "real-time hubs: the other region serves its own clients; those of {lost} wait until the store takes writes"
            ),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real() -> NodeConfig {
        crate::config::tests::parse(crate::config::check::tests::REAL, &[]).unwrap()
    }

    #[test]
    fn each_region_of_three_can_be_lost() {
        let config = real();
        for region in ["paris", "oslo", "bergen"] {
            let told = lose(&config, &Region::parse(region).unwrap()).unwrap();
            assert!(told.iter().all(|one| one.weight < Weight::Stops), "{region}: {told:?}");
        }
        let error = lose(&config, &Region::parse("rome").unwrap()).unwrap_err();
        assert!(error.ends_with("there are: oslo, paris, bergen"), "{error}");
    }

    #[test]
    fn an_embedded_store_dies_with_its_region() {
        let config = crate::config::tests::parse(crate::config::tests::GOOD, &[]).unwrap();
        let told = lose(&config, &config.region).unwrap();
        assert!(told.iter().filter(|one| one.weight == Weight::Stops).count() >= 3, "{told:?}");
    }

    #[test]
    fn two_voters_in_one_region_are_told() {
        let mut config = real();
        let etcd = config.etcd.as_mut().unwrap();
        let paris = etcd.endpoints.remove(&Region::parse("paris").unwrap()).unwrap();
        let here = etcd.endpoints.get_mut(&config.region).unwrap();
        *here = crate::config::OneOrMany::Many([here.all(), paris.all()].concat());
        let told = lose(&config, &config.region).unwrap();
        assert!(told[0].what.contains("1 of 3 etcd members are left and 2 are needed"), "{told:?}");
        assert_eq!(told[0].weight, Weight::Stops);
    }
}
