"""The classifier whose layers are inverted: trained, or taken from a run beside this one."""

import pathlib
import shutil
from collections.abc import Callable

import jax.numpy as jnp
import optax

from inversion_jax import config as config_lib
from inversion_jax import inversion
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import scoring, sessions
from inversion_jax.machine import notes, placement, processes, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say, warn
from inversion_jax.runs import Run

NAME = "classifier"


def check(run: Run):
  """Raises UserError if the images are too few or too small for it."""
  images, section = run.classifier_images(), run.config.classifier
  num_images = min(section.num_train or len(images), len(images))
  run.check_batch_size(NAME, num_images)
  run.classifier().check_images(images.image_shape)


def train(run: Run):
  """Trains the classifier, or copies the finished one of a run beside or above this one."""
  if run.is_trained(NAME):
    return
  if share(run):
    say("classifier: copied from %s", run.notes()[NAME]["copied_from"])
    return
  seed = config_lib.classifier_seed(run.config)
  sessions.train(subject(run), run.recipe(NAME), seed=seed, folder=run.folder)


def subject(run: Run) -> sessions.Subject:
  """What its training is; the best step is the most accurate."""
  classifier, train_pairs, validation = (
    run.classifier(),
    run.classifier_images(),
    run.images("validation"),
  )
  num_images = min(run.config.classifier.num_train or len(train_pairs), len(train_pairs))

  def loss_fn(params, batch, dropout_key):
    layers = classifier.apply(
      {"params": params}, batch["image"], train=True, rngs={"dropout": dropout_key}
    )
    logits_BC = layers["logits"]
    nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, batch["label"])
    accuracy = jnp.mean(logits_BC.argmax(-1) == batch["label"])
    return nats_B.mean(), {"train_accuracy": accuracy}

  def batch_fn(rows_B):
    batch = {"image": train_pairs.images[rows_B], "label": train_pairs.labels[rows_B]}
    return placement.put_batch(batch)

  score = scorer(run)

  def validate(state):
    is_correct_N, nats_N = score(state.ema_params, validation)
    metrics = {
      "validation_accuracy": is_correct_N.mean(),
      "validation_nats_per_image": nats_N.mean(),
    }
    return is_correct_N.mean(), metrics

  return sessions.Subject(
    name=NAME,
    init_fn=lambda keys, images_BHWC: classifier.init(keys, images_BHWC)["params"],
    first_batch=(train_pairs.images[:NUM_INIT_IMAGES],),
    loss_fn=loss_fn,
    batch_fn=batch_fn,
    num_images=num_images,
    validate=validate,
    best_mode="max",
    milestones=tuple(run.config.classifier.snapshot_steps),
    advice="raise classifier.num_microbatches or lower classifier.batch_size",
  )


NUM_INIT_IMAGES = 1  # Its initialisation looks at shapes alone.


def scorer(run: Run) -> Callable:
  """`score(params, pairs)` -> (is_correct_N, nats_N) of the labels, float64."""
  classifier = run.classifier()

  def score_batch(params, images_BHWC, labels_B):
    logits_BC = classifier.apply({"params": params}, images_BHWC)["logits"]
    nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B)
    return jnp.equal(logits_BC.argmax(-1), labels_B), nats_B

  score_batch = placement.jit_gathered(score_batch)

  def score(params, of: Pairs):
    def score_rows(rows_B):
      return score_batch(params, *placement.put_batch((of.images[rows_B], of.labels[rows_B])))

    return scoring.scores(score_rows, len(of), run.eval_batch_size)

  return score


def share(run: Run) -> bool:
  """Copies the finished classifier of a run beside or above this one, if one is the same.

  Or of a layer in another replicate.
  """
  parent = run.folder.absolute().parent
  beside, above = parent.glob(f"*/{notes.FILE}"), parent.parent.glob(notes.FILE)
  replicates = parent.parent.glob(f"{inversion.REPLICATE}*/*/{notes.FILE}")
  for path in (*sorted(beside), *above, *sorted(replicates)):
    other = path.parent
    if other != run.folder.absolute() and _has_the_same(other, run):
      processes.by_first(_copy, other / NAME, run.folder / NAME)
      run.note(NAME, notes.read(other)[NAME] | {"copied_from": other.name, "seconds": 0.0})
      return True
  return False


def _has_the_same(other: pathlib.Path, run: Run) -> bool:
  """Whether another folder has the classifier that `run` is to have, finished."""
  try:
    if not sessions.is_finished(other, NAME, run.config.classifier.num_steps):
      return False
    config = storage.read_record(other / storage.CONFIG)
    if config_lib.classifier_identity(config) != config_lib.classifier_identity(run.config):
      return False
    Run(run.config, other).classifier_params()
  except UserError as error:
    # What is the matter with another run is no reason not to train this one.
    warn("No classifier is taken from %s: %s", other, error)
    return False
  return True


def _copy(source: pathlib.Path, target: pathlib.Path):
  """Copies a folder in one piece, in the place of what was there."""
  shutil.rmtree(target, ignore_errors=True)
  temporary = target.with_name(f".{target.name}")
  shutil.rmtree(temporary, ignore_errors=True)
  shutil.copytree(source, temporary)
  temporary.rename(target)
