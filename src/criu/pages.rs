//! The page server.
