"""gRPC: the same operations as over HTTP, with vectors as raw little-endian float32."""
