//! The face as a client sees it: requests in, answers out, with a real registry and a real log behind.

mod fixture;

mod anything;
mod devices;
mod elsewhere;
mod events;
mod jobs;
mod messages;
mod one_port;
mod scheduled;
mod twins;
