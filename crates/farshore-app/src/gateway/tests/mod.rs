//! The gateway through real sockets, in front of real instances.

mod doubles;
mod hold;
mod instances;
mod limits;
mod moving;
mod programs;
mod requests;
mod storm;
mod tls;
mod tunnels;
