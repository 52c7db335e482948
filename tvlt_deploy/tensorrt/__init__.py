"""TensorRT and TensorRT-RTX: the library, size profiles, CUDA memory, engine builds and their receipts."""
