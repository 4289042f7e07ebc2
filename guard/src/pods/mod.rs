//! Which pods run here, and which cgroups are theirs.
