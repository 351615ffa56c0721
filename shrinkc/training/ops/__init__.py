"""What every ONNX operator is in torch, one family a file; found through the entry points ``shrinkc.torch_ops``."""
