//! Load generator and peers side by side.
