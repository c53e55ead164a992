//! App services.
