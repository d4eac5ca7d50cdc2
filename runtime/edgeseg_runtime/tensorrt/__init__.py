"""TensorRT: compiles engines, keeps them, and runs them on CUDA."""
