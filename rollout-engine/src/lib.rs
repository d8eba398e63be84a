//! .
pub mod random;
