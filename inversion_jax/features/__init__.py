"""Sources of h: what is known of an image, and what may stand between it and the inverter.

A layer of a network of another framework is a function from images, which `ij.pairs` takes; its
framework is imported when the function is asked for, and not before:

    ij.pairs(images, ij.features.torch(module, "layer3"))
    ij.pairs(images, ij.features.flax(module, variables, "encoder.conv2", train=False))
    ij.pairs(images, ij.features.nnx(model, "encoder.conv2"))
    ij.pairs(images, ij.features.sklearn(pca))
    ij.pairs(images, ij.features.onnx("network.onnx", "relu_2"))
"""

import importlib

# Where the function of each framework lives.
_ADAPTERS = {
  "torch": ("pytorch", "layer"),
  "torch_weights": ("pytorch", "weights"),
  "flax": ("flax_linen", "layer"),
  "nnx": ("flax_nnx", "layer"),
  "sklearn": ("scikit_learn", "transformed"),
  "onnx": ("onnx_runtime", "tensor"),
}
__all__ = list(_ADAPTERS)


def __getattr__(name: str):
  if name not in _ADAPTERS:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module, function = _ADAPTERS[name]
  return getattr(importlib.import_module(f"{__name__}.adapters.{module}"), function)


def __dir__():
  return sorted(__all__)
