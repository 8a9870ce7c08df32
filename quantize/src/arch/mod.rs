//! What an architecture's tensors are called, in the checkpoint and in GGUF.

pub mod llama;
