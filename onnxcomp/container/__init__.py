"""Files of type `.onnxz`: a model's exact bytes, entropy-coded weight by weight."""
