"""From a trained network to ONNX, and from items to their embeddings."""
