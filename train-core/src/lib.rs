//! The reusable stages of a reinforcement-learning run.

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod guard;
pub mod learner;
pub mod metrics;
pub mod optim;
pub mod report;
pub mod reward;
pub mod rundir;
pub mod sample;
pub mod types;
