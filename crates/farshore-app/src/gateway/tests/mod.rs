//! The gateway through real sockets, in front of real instances.

mod doubles;
mod hold;
mod instances;
mod moving;
mod programs;
mod requests;
mod tls;
mod tunnels;
