//! How much may be asked of a gateway.

use std::time::Duration;

/// How much clients may ask of a gateway, and how long it waits for instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Connections at once, on both listeners together; more wait in the system's queue.
    pub connections: usize,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// How long a connection without a whole head of a request is kept, quiet or slow; at most twice that.
    pub idle: Duration,
    /// For what is under way on a connection that is to end, if there is anything.
    pub leave: Duration,
    /// How long a client may send nothing in the middle of a request's body.
    pub upload_stall: Duration,
    /// Until the head of an instance's answer is there, from when nothing more of the request goes on; at most twice that.
    /// Longer work belongs behind an answer that says so.
    pub answer: Duration,
    /// Requests at once for one instance: what it has not answered is memory there and here.
    pub under_way: usize,
    /// After the app moved, for what clients and the app have to say to each other in a tunnel.
    pub tunnel_grace: Duration,
    /// After the order to stop, for requests under way.
    pub stop: Duration,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            // Each has two descriptors while a request is under way.
            connections: 8192,
            // Two round trips.
            handshake: Duration::from_secs(10),
            // Common proxies keep theirs for about a minute.
            idle: Duration::from_secs(45),
            leave: Duration::from_secs(5),
            // A phone that changes its network.
            upload_stall: Duration::from_secs(60),
            answer: Duration::from_secs(300),
            under_way: 2048,
            tunnel_grace: Duration::from_secs(2),
            stop: Duration::from_secs(2),
        }
    }
}
