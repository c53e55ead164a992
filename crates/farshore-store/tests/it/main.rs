//! One binary for all that tests the stores from outside.

mod conformance;
