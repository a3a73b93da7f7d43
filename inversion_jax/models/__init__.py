"""The networks and likelihoods, as functions of arrays, and sampling from them."""
