//! Images and the archives they come in.

mod archive;
mod hostile;
mod round_trip;
