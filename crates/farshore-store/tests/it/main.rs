//! One binary for all that tests the stores from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed; helpers here are tests, too")]

mod cluster;
mod conformance;
mod crash;
mod damage;
mod dump;
mod etcd_death;
mod etcd_members;
mod etcd_rubbish;
mod etcd_tls;
mod mirror;
mod model;
mod transfer;
