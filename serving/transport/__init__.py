"""How the client speaks gRPC and REST."""
