"""The stages that every run passes through, and further runs as well."""

from inversion_jax.stages import classifier, decoder, evaluate, inverter, sample
from inversion_jax.stages.records import Stage

CLASSIFIER = Stage("classifier", classifier.train, applies=lambda run: run.has_classifier)
INVERTER = Stage("inverter", inverter.train)
DECODER = Stage("decoder", decoder.train, applies=lambda run: bool(run.layer))
EVALUATE = Stage(
  "evaluate",
  evaluate.act,
  needs=("inverter",),
  made_for=evaluate.made_for,
  files=evaluate.FILES,
)
SAMPLE = Stage(
  "sample", sample.act, needs=("inverter",), made_for=sample.made_for, files=sample.FILES
)
