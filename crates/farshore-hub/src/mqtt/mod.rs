//! The device side: MQTT 3.1.1 as the official device SDKs speak it.
//!
//! Topics are not routed: `$iothub/...` is the same text for every device, so each connection has its own few virtual topics and
//! knows nothing of other connections. What they mean is asked of the hub behind, through two traits.
//!
//! Read in this order: [`behind`] (what a connection asks of its hub), [`topic`] (what is said where), [`wire`] (bytes as packets),
//! [`connection`] (the loop), [`listener`] (how devices arrive), [`tls`], [`websocket`].
//!
//! Must always hold: a telemetry message is acknowledged only after the hub said that it is kept; acknowledgements go out in the
//! order of what they acknowledge; a device that sends faster than the disk writes is not read, and nothing else waits for it.

pub mod behind;
pub mod connection;
pub mod listener;
pub mod tls;
pub mod topic;
pub mod websocket;
pub mod wire;
