"""Every way to look inside a layer, side by side: one picture and one table of its methods.

A method is a record: what it needs, and the images that it makes of the h of test images. The
gallery trains what is missing, makes the images, and measures all of them alike.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from inversion_jax import config as config_lib
from inversion_jax import report
from inversion_jax.features import deconvnets
from inversion_jax.fitting import training
from inversion_jax.information import neighbours
from inversion_jax.machine import locks, storage
from inversion_jax.machine.progress import say
from inversion_jax.models import optimisation, sampling
from inversion_jax.runs import Run
from inversion_jax.stages import decoder, gan, gated, inverter, measures, perceptual
from inversion_jax.stages.basic import CLASSIFIER
from inversion_jax.stages.neighbours import encoder

FILES = (storage.GALLERY, storage.GALLERY_IMAGES)
# Under the run: a classifier that differs in its seed alone, which reads the images too.
OTHER = "gallery/other_network"
# Measures, and the methods with whose every other one's are compared.
COMPARED = {"feature_l1_to_original": ("nearest", "mse"), "nats": ("inverter",)}
Levels = UInt8[np.ndarray, "N S H W C"]


class Method(NamedTuple):
  """One way to look inside a layer.

  Attributes:
    name: in files; `report.gallery` knows what to call it.
    images: makes the images of the h of the first N test images.
    model: trains what it needs, unless that is trained, and says where: (a run, the name under
      which training is noted there). None needs nothing.
    is_density: whether that run has the nats of test images.
    needs_derivative: whether h has to be a function that can be differentiated.
  """

  name: str
  images: Callable[[Run, int], Levels]
  model: Callable[[Run], tuple[Run, str]] | None = None
  is_density: bool = False
  needs_derivative: bool = False


def optimised(run: Run, num_images: int) -> Levels:
  """Images found by descent on the pixels, from several starts."""
  num_starts, test = run.config.gallery.num_samples, run.images("test")
  rows_M, start_M = np.divmod(np.arange(num_images * num_starts), num_starts)
  key = training.key_for(run.root_key, "optimisation")
  found = optimisation.invert(
    run.features.encode,
    run.features.compiled(test.images[rows_M]),
    sampling.sample_keys(key, jnp.asarray(test.index[rows_M]), jnp.asarray(start_M)),
    image_shape=test.image_shape,
    num_levels=test.num_levels,
    descent=optimisation.Descent(**run.config.optimisation),
  )
  levels_MHWC = np.asarray(found.levels_BHWC, np.uint8)
  return levels_MHWC.reshape(num_images, num_starts, *test.image_shape)


def projected_by(backward: str) -> Callable[[Run, int], Levels]:
  """The whole layer on its way back to the pixels: what is above zero, the most of it white."""

  def images(run, num_images):
    test, layers_fn = run.images("test"), run.layers_fn(backward=backward)

    @jax.jit
    def project(levels_NHWC):
      return deconvnets.projected(lambda levels: layers_fn(levels)[run.layer], levels_NHWC)

    picture_NHWC = np.maximum(project(test.images[:num_images]), 0.0)
    most_N111 = picture_NHWC.max((1, 2, 3), keepdims=True)
    shown_NHWC = picture_NHWC / np.maximum(most_N111, 1e-12) * (test.num_levels - 1)
    return np.rint(shown_NHWC).astype(np.uint8)[:, None]

  return images


def _of_decoder(run, num_images):
  params = decoder.params_at(run, run.finished(decoder.NAME)["best_step"])
  return decoder.reconstructions(run, params, _first(run, num_images))[:, None]


def _judged(name):
  """The record of one of the two decoders with a comparator."""

  def images(run, num_images):
    return perceptual.reconstructions(name, run, _first(run, num_images))[:, None]

  def model(run):
    perceptual.train(name, run)
    return run, name

  return Method(name, images, model, needs_derivative=True)


def _gan_of(run):
  return gan.trained(run, run.config.gallery.entropy_weight)


def _of_gan(run, num_images):
  return gan.draw(_gan_of(run), num_images, run.config.gallery.num_samples)


def _gated_of(run):
  gated.train(run)
  return gated.member(run), inverter.NAME


def _of_density(run, num_images):
  return run.model.draw(
    _first(run, num_images),
    run.config.gallery.num_samples,
    sampler=run.config.sample.sampler,
    batch_size=run.config.sample.batch_size,
  )


def _nearest(run, num_images):
  """The training image that is nearest in h: it costs nothing, and so is the yardstick."""
  train, of = run.pairs("train"), _first(run, num_images)

  def h_of(pairs, rows_B):
    h = np.asarray(pairs.features.of(pairs.images[rows_B], pairs.index[rows_B]))
    return h.reshape(len(rows_B), -1)

  found = neighbours.nearest(
    h_of(of, np.arange(num_images)),
    lambda rows_B: h_of(train, rows_B),
    len(train),
    run.eval_batch_size,
    1,
  )
  return train.images[found.rows_MK]


def _first(run, num_images):
  return run.pairs("test").rows(np.arange(num_images))


METHODS = (
  Method("nearest", _nearest),
  Method("optimisation", optimised, needs_derivative=True),
  Method("deconvnet", projected_by(deconvnets.DECONVNET), needs_derivative=True),
  Method("guided", projected_by(deconvnets.GUIDED), needs_derivative=True),
  Method("mse", _of_decoder, lambda run: (run, decoder.NAME)),
  _judged(perceptual.PERCEPTUAL),
  _judged(perceptual.DEEPSIM),
  Method("gan", _of_gan, lambda run: (_gan_of(run), gan.NAME), needs_derivative=True),
  Method("gated", lambda run, num: _of_density(gated.member(run), num), _gated_of, is_density=True),
  Method("inverter", _of_density, lambda run: (run, inverter.NAME), is_density=True),
)


def made_for(run: Run) -> dict:
  """The models whose images they are, and how the others are made."""
  trained = ("perceptual", "deepsim", "gan", "gated")
  return {
    "inverter_step": run.finished("inverter")["best_step"],
    "decoder_step": run.finished("decoder")["best_step"],
    "num_steps": {name: run.config[name].num_steps for name in trained},
    "optimisation": run.config.optimisation.to_dict(),
    "gallery": run.config.gallery.to_dict(),
  }


def act(run: Run):
  """Writes `gallery.npz`, the images of all methods, `gallery.json`, what they measure, and both
  as a picture and a table under `figures/`.
  """
  num_images = min(run.config.gallery.num_images, len(run.images("test")))
  fitting = [one for one in METHODS if run.features.is_differentiable or not one.needs_derivative]
  readers = {"accuracy": run, "other_accuracy": _other(run)} if run.has_classifier else {}
  encode = encoder(run) if run.features.can_encode else None
  images, rows, measured = {}, [], {}
  for method in fitting:
    say("%s: gallery, %s", run.folder, method.name)
    model = method.model(run) if method.model else None
    images[method.name], seconds = _timed(method, run, num_images)
    measured[method.name] = measures.of_samples(run, images[method.name], encode, readers)
    if method.is_density:
      nats_N = storage.read_npz(model[0].folder / storage.NATS)["nats"][:num_images]
      measured[method.name]["nats"] = nats_N
    cost = {
      "seconds_per_image": seconds / images[method.name][..., 0, 0, 0].size,
      "training_seconds": model[0].notes()[model[1]]["seconds"] if model else 0.0,
    }
    rows.append({"method": method.name} | measures.means(run, measured[method.name]) | cost)
  for row in rows:
    row["differences"] = _differences(run, row["method"], measured)
  _write(run, num_images, images, rows)


def _timed(method, run, num_images):
  """The images, and how long they take when what can be kept of a first time is kept."""
  method.images(run, num_images)
  start = time.monotonic()
  images_NSHWC = method.images(run, num_images)
  return images_NSHWC, time.monotonic() - start


def _differences(run, name, measured):
  """Of a method's measures to those of others, paired by image."""
  differences = {}
  for measure, others in COMPARED.items():
    for other in others:
      if name != other and other in measured and measure in measured[name]:
        gap_N = measured[name][measure] - measured[other][measure]
        differences |= measures.means(run, {f"{measure}_minus_{other}": gap_N})
  return differences


def _other(run):
  """The run of a classifier with another seed."""
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.seed = config_lib.classifier_seed(config) + 1
    config.classifier.seed = config_lib.default().classifier.seed
  other = Run(config, run.folder / OTHER)
  with locks.owned(other.folder):
    other.begin()
    CLASSIFIER(other)
  return other


def _write(run, num_images, images, rows):
  test = run.images("test")
  storage.write_npz(
    run.folder / storage.GALLERY_IMAGES,
    {
      "original": test.images[:num_images],
      "index": test.index[:num_images],
      "label": test.labels[:num_images],
      **images,
    },
  )
  facts = {
    "dataset": test.dataset,
    "layer": run.layer,
    "num_levels": test.num_levels,
    "num_images": num_images,
    "num_samples": run.config.gallery.num_samples,
    "inverter_step": run.finished("inverter")["best_step"],
    "left_out": [one.name for one in METHODS if one.name not in images],
    "rows": rows,
  }
  storage.write_json(run.folder / storage.GALLERY, facts)
  report.write_gallery(run.folder / storage.FIGURES, [run.folder])
