"""Goes through the runs of a launch; one that fails does not stop the others."""

import gc
import pathlib
import traceback
from collections.abc import Sequence

import jax

from inversion_jax import config as config_lib
from inversion_jax import stages
from inversion_jax.machine import compilation, workers
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say, warn
from inversion_jax.paper import plans
from inversion_jax.runs import Run


def go_through_all(
  planned: Sequence[plans.Planned], workdir: pathlib.Path, num_jobs: int
) -> list[str]:
  """Goes through all runs under `workdir`; returns the folders of those that failed.

  Args:
    planned: the runs.
    workdir: of all of them.
    num_jobs: runs at the same time, see `workers.num_at_once`.
  """
  num = workers.num_at_once(num_jobs, len(planned))
  if num == 1:
    succeeded = []
    for place, one in enumerate(planned, 1):
      say("run %d of %d: %s", place, len(planned), one.folder)
      succeeded.append(go_through(one, workdir))
  else:
    for one in plans.part(planned, plans.SHARED):
      # If it fails, those that need it say so.
      go_through(one, workdir)
    tasks = [workers.Task(one.folder, go_through, (one, workdir)) for one in planned]
    with workers.side_by_side(num) as work:
      succeeded = work(tasks)
  return [one.folder for one, is_done in zip(planned, succeeded, strict=True) if not is_done]


def go_through(planned: plans.Planned, workdir: pathlib.Path) -> bool:
  """Runs all stages; a failure is told and the others go on."""
  # What is shared is gone through once more with the rest, from the plan as it was.
  config = planned.config.copy_and_resolve_references()
  if config.inverter.start_from:
    config.inverter.start_from = str(workdir / config.inverter.start_from)
  try:
    run = Run(config_lib.check(config), workdir / planned.folder)
    with compilation.kept_in(workdir / compilation.FOLDER):
      stages.check([run], planned.stages)
      stages.go_through(run, planned.stages)
  except UserError as error:
    warn("%s failed: %s", planned.folder, error)
    return False
  except Exception:
    # Whatever it is, it must not cost the other runs; it keeps its traceback.
    warn("%s failed:\n%s", planned.folder, traceback.format_exc())
    return False
  finally:
    # Most runs have networks of their own: what one compiled would only stay in memory.
    jax.clear_caches()
    gc.collect()
  return True
