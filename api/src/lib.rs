//! What the parts of tutti agree on: specs, names, shapes; no I/O.
