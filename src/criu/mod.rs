//! What rewarm knows of CRIU: the program, its images, and its lazy pages.

pub mod images;
pub mod pages;
pub mod tool;
