"""What a person looks at: figures, tables and pages, made from the files of run folders alone.

No model is loaded and no device is touched, so a report can be made again anywhere, at any time.
"""

from inversion_jax.report.comparison import write_comparison
from inversion_jax.report.figure_3 import write_figure_3
from inversion_jax.report.gallery import write_gallery
from inversion_jax.report.single import write_run_report
from inversion_jax.report.table_1 import write_table_1

__all__ = [
  "write_comparison",
  "write_figure_3",
  "write_gallery",
  "write_run_report",
  "write_table_1",
]
