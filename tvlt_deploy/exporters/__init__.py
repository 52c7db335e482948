"""From a reference model to ONNX graphs: the inference model, precisions, quantization, pre-processing."""
