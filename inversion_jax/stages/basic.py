"""The stages that every run passes through, and further runs as well."""

from inversion_jax.stages import classifier, decoder, evaluate, inverter, sample
from inversion_jax.stages.records import Stage

CLASSIFIER = Stage(
  classifier.NAME,
  classifier.train,
  applies=lambda run: run.has_classifier,
  check=classifier.check,
  finished=lambda run: run.is_trained(classifier.NAME),
)
DECODER = Stage(
  decoder.NAME,
  decoder.train,
  applies=lambda run: bool(run.layer),
  needs=lambda run: (CLASSIFIER,),
  check=decoder.check,
  finished=lambda run: run.is_trained(decoder.NAME),
)
INVERTER = Stage(
  inverter.NAME,
  inverter.train,
  needs=lambda run: (CLASSIFIER, DECODER) if inverter.begins_with_decoder(run) else (CLASSIFIER,),
  check=inverter.check,
  finished=lambda run: run.is_trained(inverter.NAME),
)
EVALUATE = Stage(
  "evaluate",
  evaluate.act,
  needs=lambda run: (INVERTER,),
  check=evaluate.check,
  made_for=evaluate.made_for,
  files=evaluate.FILES,
)
SAMPLE = Stage(
  "sample",
  sample.act,
  needs=lambda run: (INVERTER,),
  check=sample.check,
  made_for=sample.made_for,
  files=sample.FILES,
)
