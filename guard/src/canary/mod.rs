//! The canary: a process of the agent's own, under the guarded root like a pod on the host's network, that tries to reach
//! IMDS in every way that is safe to try. The agent asks the kernel after each one whether its programs refused it: what
//! it says of itself is what was just seen, not what it believes.
//!
//! If the guard stood open, IMDS would get the first packet of a connection or one datagram of each try: no request is
//! ever made. This module knows how to try; what follows from it is the agent's matter (`agent/selftest.rs`).

mod conversation;
mod place;
mod vector;

pub use conversation::{Conversation, ConversationError, converse};
pub use place::{Entrance, FOLDER, PlaceError, find, make, remove};
pub use vector::{Outcome, Target, VECTORS, Vector};
