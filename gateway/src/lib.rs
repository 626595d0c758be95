//! The data plane: one request, from accepted socket to settled record.

pub mod json;
