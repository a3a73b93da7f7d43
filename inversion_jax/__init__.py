"""See what a neural network's layers know, by learning p(x | h) with a density model.

Axes are the capitals at the end of a name: `N` images of a set, `B` images of a batch, `S` samples
of one image, `H W` rows and columns, `C` colours, `F` features, `K` mixture components, `L` levels
of a sub-pixel, `Z` units of a representation. Pixels are `levels` (integers from 0) or `unit`
(floats from -1 to 1). Information is in nats, and names say so.

    train, test = ij.pairs(x, h).split(test=1_000)
    model = ij.fit(train, folder="runs/mine")
    print(model.evaluate(test))
"""

import importlib

__version__ = "0.1.0"

# Where each public name lives; loaded when it is asked for, so that importing costs nothing.
_HOME = {
  "pairs": "features.pairs",
  "validate": "features.pairs",
  "fit": "inversion",
  "load": "inversion",
  "push": "inversion",
  "pull": "inversion",
  "mixture": "inversion",
  "cross_fit": "inversion",
  "Inversion": "inversion",
  "Mixture": "inversion",
  "Network": "inversion",
  "Result": "results",
  "Codelength": "results",
  "Comparison": "results",
  "Estimate": "information",
  "Recipe": "fitting.training",
  "UserError": "machine.errors",
}
_NAMESPACES = {
  "features": "features",
  "information": "information",
  "estimators": "information.estimators",
  "exact": "exact",
  # Also a command; it can be called.
  "compare": "compare",
}
__all__ = [*_HOME, *_NAMESPACES]


def __getattr__(name: str):
  if name in _NAMESPACES:
    return importlib.import_module(f"{__name__}.{_NAMESPACES[name]}")
  if name in _HOME:
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return sorted(__all__)
