//! Malformed and hostile GGUF files, one named test each, with the error that each must get; and
//! beside them the odd files that must pass.

mod header;
mod metadata;
mod model;
mod tensors;
mod util;
mod vocabulary;
