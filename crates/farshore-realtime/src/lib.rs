//! Real-time hubs.
