//! Pairs over real sockets.

mod calls;
mod going;
mod site;
