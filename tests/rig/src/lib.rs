//! Starts the real servers that tests run on.
