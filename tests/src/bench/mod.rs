//! What the guard costs, measured on the real kernel with the real agent.
//!
//! ```text
//! connect   a worker in every place ── the same calls in turn ──▶ what each place pays ──▶ report
//! idle      250 pods, nothing happens ── the agent's memory and CPU ─────────────────────▶ report
//! gate      wrk ── straight, through nginx, through the gate ── requests a second ───────▶ report
//!           250 gates: the agent's memory; 200 new pods: how soon the gate answers ──────▶ report
//! sdk       AWS SDKs in pods whose requests are answered, refused, lost, denied ─────────▶ report
//! ```
//!
//! A bench measures, prints and judges by the targets that it names itself. It changes nothing that it measures.

mod connect;
mod floor;
mod gate;
mod host;
mod idle;
mod memory;
mod report;
mod rounds;
mod sdk;
mod worker;

pub use connect::connect;
pub use gate::{gate, knock};
pub use idle::idle;
pub use sdk::sdk;
pub use worker::serve;
