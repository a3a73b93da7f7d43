"""The stages of one run; each reads and writes the run's folder alone, and skips what is done."""

import functools

from inversion_jax import report
from inversion_jax.stages import brackets, checks, gallery, gan, gated, neighbours, perceptual
from inversion_jax.stages.basic import CLASSIFIER, DECODER, EVALUATE, INVERTER, SAMPLE
from inversion_jax.stages.records import Stage, only_for_layers, only_with_encoder

_RECORDS = (
  CLASSIFIER,
  INVERTER,
  DECODER,
  EVALUATE,
  SAMPLE,
  # Always anew, since it costs seconds.
  Stage("report", lambda run: report.write_run_report(run.folder)),
  Stage("checks", checks.act, needs=("evaluate",), check=checks.check),
  Stage("brackets", brackets.act, check=brackets.check),
  Stage(
    "neighbours",
    neighbours.act,
    needs=("inverter",),
    check=only_with_encoder("neighbours"),
    made_for=neighbours.made_for,
    files=neighbours.FILES,
  ),
  Stage("gan", gan.act, needs=("sample",), check=gan.check, made_for=gan.made_for, files=gan.FILES),
  *(
    Stage(
      name,
      functools.partial(perceptual.train, name),
      check=functools.partial(perceptual.check, name),
    )
    for name in (perceptual.PERCEPTUAL, perceptual.DEEPSIM)
  ),
  Stage("gated", gated.train, check=only_for_layers("gated")),
  Stage(
    "gallery",
    gallery.act,
    needs=("inverter", "decoder", "evaluate"),
    check=only_for_layers("gallery"),
    made_for=gallery.made_for,
    files=gallery.FILES,
  ),
)
STAGES = {stage.name: stage for stage in _RECORDS}
# Only for those who ask: checks and brackets train six or seven further inverters, the neighbours
# take thousands of samples, and the others are rivals to compare with.
FURTHER = ("checks", "brackets", "neighbours", "gan", "perceptual", "deepsim", "gated", "gallery")
DEFAULT = tuple(name for name in STAGES if name not in FURTHER)
