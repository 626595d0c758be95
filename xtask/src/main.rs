//! cargo xtask: up, test, bench, rig.

fn main() {}
