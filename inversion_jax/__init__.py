"""See what a neural network's layers know, by learning p(x | h) with a density model.

Axes are the capitals at the end of a name: `N` images of a set, `B` images of a batch, `S` samples
of one image, `H W` rows and columns, `C` colours, `F` features, `K` mixture components, `L` levels
of a sub-pixel, `Z` units of a representation. Pixels are `levels` (integers from 0) or `unit`
(floats from -1 to 1). Information is in nats, and names say so.
"""
