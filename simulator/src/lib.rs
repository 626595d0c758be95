//! A faithful simulated Ollama, as library and process.
