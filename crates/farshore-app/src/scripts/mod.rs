//! The scripts of a service: a bare git repository in each region, what is pushed to it, and the files of a release.
//!
//! Read in this order: [`repository`] (what is in it, how it becomes files), [`files`] and [`object`] (files on a disk
//! compared with a commit), [`deposit`] (an archive becomes a commit), [`pack`] (what another region's copy lacks),
//! [`http`] (clone, fetch and push), [`says`] (who may, and what the pusher is told); below them [`program`] (how git is
//! called) and [`home`] (the directory).
//!
//! Must always hold: what was acknowledged is on the disk; a commit's files are the same to the byte in every region,
//! and their tree id tells it; nothing that was pushed is run by the node, neither hook nor setting nor filter; a
//! branch moves from the commit that was seen, or not at all.

mod deposit;
mod error;
mod files;
mod home;
pub mod http;
mod object;
mod pack;
mod program;
mod repository;
mod says;
#[cfg(test)]
mod tests;

pub use error::ScriptsError;
pub use files::{Difference, Survey, What};
pub use http::GitHttp;
pub use repository::{Commit, Refs, Repository};
pub use says::{Believes, OnPush, Says};
