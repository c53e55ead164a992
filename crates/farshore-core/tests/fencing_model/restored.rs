//! The same promise when the store is restored from a backup that is older than a failover: a holding item, so that no
//! lease ends by itself. The incarnation rises, and the source is told to serve only when every agent has said what it
//! knows, none is ahead, and the other region has stored the new token *as a region that follows*: an order of the
//! store's life before may still be on its way to it.

use farshore_core::fencing::{TokenVerdict, judge};
use farshore_core::ids::{Epoch, Token};
use stateright::{Checker, Model, Property};

const ONE_OWNER: &str = "at most one region serves";

/// What is explored, and what is left out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restore {
    /// The protocol.
    Whole,
    /// An agent that does not answer is taken to know nothing.
    SilenceIsNothing,
    /// A region that is not to serve is not told the new incarnation before the other is.
    OldOrdersObeyed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    store: Store,
    /// Region 0 serves at first, region 1 follows.
    agents: [Copy; 2],
    /// The operator's word was given: region 1 is told to serve, perhaps late.
    promote_sent: bool,
    /// What agents have answered since the restore.
    answers: [Option<Token>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Store {
    /// Its first life.
    First,
    /// Restored; asks the agents.
    Asking,
    /// All have answered, none is ahead: region 1 is told first.
    Agreed,
    /// A person decides.
    NeedsUser,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Copy {
    highest: Token,
    up: bool,
    serves: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    LoseSource,
    Promote,
    Open,
    Restore,
    SourceStarts,
    Answer(usize),
    Decide,
    TellTarget,
    TellSource,
}

impl Model for Restore {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let agent = |serves| Copy { highest: token(1, 1), up: true, serves };
        vec![World {
            store: Store::First,
            agents: [agent(true), agent(false)],
            promote_sent: false,
            answers: [None; 2],
        }]
    }

    fn actions(&self, _: &World, steps: &mut Vec<Step>) {
        use Step::{
            Answer, Decide, LoseSource, Open, Promote, Restore, SourceStarts, TellSource, TellTarget,
        };
        steps.extend([LoseSource, Promote, Open, Restore, SourceStarts]);
        steps.extend([Answer(0), Answer(1), Decide, TellTarget, TellSource]);
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        let possible = match step {
            Step::LoseSource => world.agents[0].lose(),
            Step::Promote => world.promote(),
            Step::Open => world.promote_sent && world.agents[1].serve(token(1, 2)),
            Step::Restore => world.restore(),
            Step::SourceStarts => world.agents[0].start(),
            Step::Answer(region) => world.answer(region),
            Step::Decide => world.decide(*self),
            Step::TellTarget => world.tell_target(),
            Step::TellSource => world.tell_source(*self),
        };
        (possible && world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(ONE_OWNER, |_, world| !world.agents.iter().all(|agent| agent.serves)),
            Property::<Self>::sometimes("the restored store goes on", |_, world| {
                world.agents[0].serves && world.agents[0].highest == token(2, 1)
            }),
            Property::<Self>::sometimes("an agent ahead of the store leads to a person", |_, world| {
                world.store == Store::NeedsUser && world.agents[1].serves
            }),
        ]
    }
}

impl World {
    fn promote(&mut self) -> bool {
        self.promote_sent = true;
        self.store == Store::First && !self.agents[0].up
    }

    /// The backup is of epoch 1, region 0.
    fn restore(&mut self) -> bool {
        self.store == Store::First && {
            self.store = Store::Asking;
            true
        }
    }

    fn answer(&mut self, region: usize) -> bool {
        self.answers[region] = Some(self.agents[region].highest);
        self.store == Store::Asking && self.agents[region].up
    }

    fn decide(&mut self, restore: Restore) -> bool {
        let ahead = self.answers.iter().flatten().any(|known| known.epoch > Epoch(1));
        let complete = self.answers.iter().all(Option::is_some) || restore == Restore::SilenceIsNothing;
        self.store == Store::Asking && complete && {
            self.store = if ahead { Store::NeedsUser } else { Store::Agreed };
            true
        }
    }

    /// An order for a region that follows only: one that was promoted since it answered refuses, and a person decides.
    fn tell_target(&mut self) -> bool {
        if self.store == Store::Agreed && self.agents[1].serves {
            self.store = Store::NeedsUser;
            return true;
        }
        self.store == Store::Agreed && self.agents[1].learn(token(2, 1))
    }

    fn tell_source(&mut self, restore: Restore) -> bool {
        let may = match restore {
            Restore::Whole => self.agents[1].highest >= token(2, 1),
            Restore::SilenceIsNothing => self.agents[1].highest >= token(2, 1) || self.answers[1].is_none(),
            Restore::OldOrdersObeyed => true,
        };
        self.store == Store::Agreed && may && self.agents[0].serve(token(2, 1))
    }
}

impl Copy {
    fn lose(&mut self) -> bool {
        self.serves = false;
        std::mem::replace(&mut self.up, false)
    }

    /// Serves nothing until it is told to.
    fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.up, true)
    }

    fn learn(&mut self, received: Token) -> bool {
        let stale = matches!(judge(received, self.highest), TokenVerdict::Stale { .. });
        self.highest = self.highest.max(received);
        self.up && !stale
    }

    fn serve(&mut self, received: Token) -> bool {
        let obeys = self.learn(received);
        self.serves |= obeys;
        obeys
    }
}

fn token(incarnation: u64, epoch: u64) -> Token {
    Token::new(incarnation, Epoch(epoch))
}

#[test]
fn a_restored_store_makes_no_second_owner() {
    let checker = Restore::Whole.checker().spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.is_done() && checker.unique_state_count() >= 60);
}

#[test]
fn silence_taken_for_nothing_is_caught() {
    println!(
        "{:?}",
        Restore::SilenceIsNothing.checker().spawn_bfs().join().assert_any_discovery(ONE_OWNER).into_actions()
    );
}

#[test]
fn an_order_of_the_life_before_is_caught() {
    println!(
        "{:?}",
        Restore::OldOrdersObeyed.checker().spawn_bfs().join().assert_any_discovery(ONE_OWNER).into_actions()
    );
}
