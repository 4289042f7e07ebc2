//! The attack suite: every vector from every kind of pod, what is declared of each, and the stage that they need.
//!
//! ```text
//! Vector × Kind ── fate ──▶ what is declared ── table ──▶ docs/security.md
//!       │                        ║ held to it by tests/attacks.rs
//!       └── Scene ── attack ──▶ what comes of it, and what IMDS saw
//! ```

mod fate;
mod kind;
mod scene;
pub mod table;

pub use fate::{BEYOND, Fate, Lock, fate};
pub use kind::Kind;
pub use scene::{Attacker, Scene};
pub use table::Row;
