mod descriptions;
mod machines;
pub(in crate::cache) mod reference;
mod sampling;
