//! How much of a region's memory its apps use up, and whether another one has room: decided here, from what all of them say.
//!
//! Whoever is active uses up what its mode gives its instances. A reserve is an app like any other, so it uses up its own; when the
//! app that it is kept for, or was lent to, becomes active in the region, that one has its room instead.
//!
//! Must always hold: what is used up together is never more than the region has, unless the operator made it smaller later.

use farshore_core::ids::Name;

use crate::mode::Mode;
use crate::reserve::scale_to_fit;
use crate::spec::{AppSpec, memory_mib};

/// What one app says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) name: Name,
    /// It is active here, or will be once it is confirmed.
    pub(super) is_active: bool,
    pub(super) mode: Mode,
    pub(super) instances: u32,
    /// Which app its capacity is kept for.
    pub(super) reserve_for: Option<Name>,
    /// Which app its capacity was given to.
    pub(super) lent_to: Option<Name>,
}

/// What an app has once it is active here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room<'a> {
    pub(super) mode: Mode,
    pub(super) instances: u32,
    /// Whose capacity it uses.
    pub(super) of: Option<&'a Name>,
}

/// There is not room enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this region has {mib} MiB for apps and {used_mib} of them are used: {instances} x {mode} needs {needs_mib}; \
     delete or scale down another app here, or give the region more (capacity_mib)"
)]
pub(super) struct NoRoom {
    mib: u64,
    used_mib: u64,
    needs_mib: u64,
    instances: u32,
    mode: Mode,
}

impl Claim {
    fn memory_mib(&self) -> u64 {
        memory_mib(self.mode) * u64::from(self.instances)
    }
}

/// Whether its capacity is used by the app that it was lent to, which is active here.
pub(super) fn is_used_up(claim: &Claim, all: &[Claim]) -> bool {
    claim.lent_to.as_ref().is_some_and(|to| all.iter().any(|other| other.is_active && other.name == *to))
}

/// What is used up in all.
pub(super) fn used_mib(all: &[Claim]) -> u64 {
    all.iter().filter(|claim| claim.is_active && !is_used_up(claim, all)).map(Claim::memory_mib).sum()
}

/// Whether `name` may run so much, with everything else as it is.
pub(super) fn fits(all: &[Claim], name: &Name, spec: &AppSpec, mib: u64) -> Result<(), NoRoom> {
    needs(all, name, spec.mode, spec.instances, mib)
}

fn needs(all: &[Claim], name: &Name, mode: Mode, instances: u32, mib: u64) -> Result<(), NoRoom> {
    let others: Vec<Claim> = all.iter().filter(|claim| claim.name != *name).cloned().collect();
    // With it active, a reserve that is lent to it is used up.
    let with = Claim {
        name: name.clone(),
        is_active: true,
        mode,
        instances,
        reserve_for: None,
        lent_to: all.iter().find(|claim| claim.name == *name).and_then(|claim| claim.lent_to.clone()),
    };
    let needs_mib = if is_used_up(&with, &others) { 0 } else { with.memory_mib() };
    let together: Vec<Claim> = others.into_iter().chain([with.clone()]).collect();
    let used_mib = used_mib(&together) - needs_mib;
    if used_mib + needs_mib > mib {
        return Err(NoRoom { mib, used_mib, needs_mib, instances, mode });
    }
    Ok(())
}

/// The reserve of `name` here, as good as there is: one that was lent to it, else one that is kept for it.
pub(super) fn reserve_of<'a>(all: &'a [Claim], name: &Name) -> Option<&'a Claim> {
    let lent = |claim: &&Claim| claim.is_active && claim.lent_to.as_ref() == Some(name);
    let kept = |claim: &&Claim| {
        claim.is_active && claim.lent_to.is_none() && claim.reserve_for.as_ref() == Some(name)
    };
    all.iter().find(lent).or_else(|| all.iter().filter(kept).max_by_key(|claim| claim.memory_mib()))
}

/// What `name` gets when it becomes active here: the mode of its reserve, if it has one that is large enough, and as many
/// instances as it had, or as there is room for.
pub(super) fn room_for<'a>(
    all: &'a [Claim],
    name: &Name,
    spec: &AppSpec,
    mib: u64,
) -> Result<Room<'a>, NoRoom> {
    let Some(reserve) = reserve_of(all, name).filter(|reserve| reserve.mode >= spec.mode) else {
        return fits(all, name, spec, mib).map(|()| Room {
            mode: spec.mode,
            instances: spec.instances,
            of: None,
        });
    };
    let lent: Vec<Claim> = all
        .iter()
        .map(|claim| match claim.name == reserve.name {
            true => Claim { lent_to: Some(name.clone()), ..claim.clone() },
            false => claim.clone(),
        })
        .collect();
    let wanted = spec.instances.clamp(1, reserve.mode.instances_max());
    let mut last = None;
    for instances in (1..=wanted).rev() {
        match needs(&lent, name, reserve.mode, instances, mib) {
            Ok(()) => return Ok(Room { mode: reserve.mode, instances, of: Some(&reserve.name) }),
            Err(no_room) => last = Some(no_room),
        }
    }
    Err(last.expect("there is at least one instance"))
}

/// What is wrong with the reserve of a protected app here, for people.
pub(super) fn reserve_warning(all: &[Claim], name: &Name, spec: &AppSpec, here: &str) -> Option<String> {
    let Some(reserve) = reserve_of(all, name) else {
        return Some(format!(
            "no capacity is reserved for {name} in {here}: run farshore app reserve {name}-dr --region {here} --mode {} --for {name}",
            spec.mode
        ));
    };
    let mend = scale_to_fit((reserve.mode, reserve.instances), (spec.mode, spec.instances))?;
    Some(format!(
        "the reserve {of} of {name} in {here} is {} x {}, but {name} is {} x {}: run farshore app scale {of} {mend}",
        reserve.instances,
        reserve.mode,
        spec.instances,
        spec.mode,
        of = reserve.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn claim(of: &str, mode: Mode, instances: u32) -> Claim {
        Claim { name: name(of), is_active: true, mode, instances, reserve_for: None, lent_to: None }
    }

    fn spec(mode: Mode, instances: u32) -> AppSpec {
        AppSpec { mode, instances, ..AppSpec::default() }
    }

    fn todo_there() -> Claim {
        Claim { is_active: false, ..claim("todo", Mode::Basic, 2) }
    }

    fn reserve(mode: Mode, instances: u32) -> Claim {
        Claim { reserve_for: Some(name("todo")), ..claim("todo-dr", mode, instances) }
    }

    #[test]
    fn a_region_without_room_refuses_and_says_how_much_there_is() {
        let all = [claim("blog", Mode::Basic, 1)];
        fits(&all, &name("new"), &spec(Mode::Basic, 1), 1024).unwrap();
        let refused = fits(&all, &name("new"), &spec(Mode::Standard, 1), 1024).unwrap_err().to_string();
        assert!(refused.contains("1024 MiB") && refused.contains("512 of them are used"), "{refused}");
        // What it uses already counts once.
        fits(&all, &name("blog"), &spec(Mode::Basic, 2), 1024).unwrap();
    }

    #[test]
    fn a_target_uses_nothing_up() {
        assert_eq!(used_mib(&[todo_there()]), 0);
    }

    #[test]
    fn a_recovered_app_has_the_room_and_the_mode_of_its_reserve() {
        for lent_to in [None, Some(name("todo"))] {
            let all = [todo_there(), Claim { lent_to, ..reserve(Mode::Standard, 1) }];
            assert_eq!(used_mib(&all), 2048);
            let room = room_for(&all, &name("todo"), &spec(Mode::Basic, 2), 2048).unwrap();
            // Two instances of the larger mode do not fit: one runs.
            assert_eq!((room.mode, room.instances, room.of), (Mode::Standard, 1, Some(&name("todo-dr"))));
        }
    }

    #[test]
    fn a_reserve_is_used_up_once() {
        let all = [
            claim("todo", Mode::Basic, 2),
            Claim { lent_to: Some(name("todo")), ..reserve(Mode::Basic, 2) },
            claim("blog", Mode::Free, 1),
        ];
        assert_eq!(used_mib(&all), 1024 + 128);
        fits(&all, &name("todo"), &spec(Mode::Basic, 2), 1152).unwrap();
        fits(&all, &name("todo"), &spec(Mode::Basic, 3), 1152).unwrap_err();
    }

    #[test]
    fn without_a_reserve_it_takes_what_is_free_or_is_refused() {
        let all = [todo_there(), claim("blog", Mode::Basic, 1)];
        let room = room_for(&all, &name("todo"), &spec(Mode::Basic, 2), 1536).unwrap();
        assert_eq!((room.instances, room.of), (2, None));
        room_for(&all, &name("todo"), &spec(Mode::Basic, 2), 1535).unwrap_err();
        // A reserve of somebody else is not touched.
        let other = [todo_there(), Claim { lent_to: Some(name("blog")), ..reserve(Mode::Basic, 2) }];
        room_for(&other, &name("todo"), &spec(Mode::Basic, 2), 1024).unwrap_err();
    }

    #[test]
    fn a_missing_or_small_reserve_is_told() {
        let told = |all: &[Claim]| reserve_warning(all, &name("todo"), &spec(Mode::Basic, 2), "oslo");
        assert!(told(&[todo_there()]).unwrap().contains("no capacity is reserved"));
        let free = told(&[reserve(Mode::Free, 1)]).unwrap();
        assert!(free.ends_with("run farshore app scale todo-dr --mode basic --instances 2"), "{free}");
        let one = told(&[reserve(Mode::Basic, 1)]).unwrap();
        assert!(
            one.ends_with(
                "is 1 x basic, but todo is 2 x basic: run farshore app scale todo-dr --instances 2"
            ),
            "{one}"
        );
        assert_eq!(told(&[reserve(Mode::Basic, 2)]), None);
    }
}
