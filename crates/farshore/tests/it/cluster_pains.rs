//! What goes wrong elsewhere, and the test that shows that it does not here.
