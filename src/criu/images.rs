//! Reading of CRIU's image files.
