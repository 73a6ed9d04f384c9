"""Every GGML quantization type in plain torch, one module per family, one table over them."""
