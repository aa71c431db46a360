//! Single networks against what the PyTorch modules computed with the same weights and inputs.

mod common;
#[path = "networks/fixtures.rs"]
mod fixtures;
#[path = "networks/golden.rs"]
mod golden;
