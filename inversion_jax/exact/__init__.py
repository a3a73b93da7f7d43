"""A suite where the true mutual information is known: `python -m inversion_jax.exact`.

From Python: `exact.measure.measure(exact.tasks.TASKS["pool"]())`.
"""

from inversion_jax.exact import curves, measure, others, tasks

__all__ = ["curves", "measure", "others", "tasks"]
