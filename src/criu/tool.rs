//! The program `criu`.
