"""Make ONNX models smaller and faster without training, and prove that they still answer the same."""
