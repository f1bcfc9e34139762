"""Matchers as ONNX graphs: exported from torch, made smaller, run by onnxruntime (extra `onnx`)."""
