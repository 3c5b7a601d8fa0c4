//! Turns a recipe into a root file system.
