//! Numbers that peers' own code gave.
//!
//! The test binary `golden` walks `GOLDEN_DIR` (default `tests/golden`): every `policy_loss*.json` and every folder
//! under `models/`. `oracles/` holds scripts that ask the peers' code itself.
