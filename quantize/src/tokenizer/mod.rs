//! Vocabularies: read from a checkpoint, written to GGUF, tested against each other.
