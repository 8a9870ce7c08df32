//! Scalar and vector quantization kernels: rows of f32 in, ggml blocks out.
