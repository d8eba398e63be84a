//! .
pub mod types;
