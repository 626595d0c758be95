//! End-to-end tests; the rig that starts their servers is `tests/rig`.
