"""Pre-processing as ONNX operators, and the fused graph."""
