//! The reusable stages of a reinforcement-learning run.

pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod experiment;
pub mod footprint;
pub mod gate;
pub mod guard;
mod interval;
pub mod learner;
pub mod local;
pub mod media;
pub mod metrics;
pub mod optim;
pub mod policy;
mod record;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod rundir;
pub mod sample;
pub mod setup;
pub mod trainer;
pub mod types;
pub mod verdict;
pub mod what_if;
