//! What must hold of the join and of its reading.
