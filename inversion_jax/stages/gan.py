"""Trains the rival of figure 3, a GAN given h, and measures its samples beside ours.

One GAN for each `gan.entropy_weights`, each an ordinary run under `gan/`, on the classifier of the
run itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from inversion_jax import config as config_lib
from inversion_jax import inversion, report
from inversion_jax.fitting import scoring, sessions, training
from inversion_jax.machine import locks, placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.models import gans, sampling, upward
from inversion_jax.models.gans import Gan
from inversion_jax.runs import Run
from inversion_jax.stages import measures
from inversion_jax.stages.basic import CLASSIFIER
from inversion_jax.stages.neighbours import encoder, nearest_train

NAME = "gan"
FOLDER = "gan"

FILES = (storage.GAN_SAMPLES, storage.GAN)


def check(run: Run):
  """Raises UserError if a GAN cannot be trained beside the inverter of a run."""
  if not run.layer or run.channel or not run.config.gan.entropy_weights:
    raise UserError(
      "The gan stage is for a run that inverts a layer as it is, with at least one of "
      "gan.entropy_weights."
    )
  if not run.has_classifier:
    raise UserError(
      "The gan stage differentiates h by the pixels, which stored features do not allow; leave it "
      "out, or invert a layer of the classifier."
    )
  images, section = run.images("train"), run.config
  run.check_batch_size(NAME, len(images))
  run.check_evidence(section.sample.num_images, "sample.num_images")
  num_scales = section.gan.network.num_scales
  with config_lib.named("gan.network.{}".format):
    upward.check_num_scales(num_scales, num_scales, images.image_shape)
  if section.sample.num_samples < 2:
    raise UserError("sample.num_samples=1 has no diversity; draw 2 samples or more of each image.")


def made_for(run: Run) -> dict:
  """The GANs, and the samples that theirs stand beside."""
  return {
    "num_steps": run.config.gan.num_steps,
    "entropy_weights": list(run.config.gan.entropy_weights),
    "sampled": run.finished("sample"),
  }


def act(run: Run):
  """Writes `gan.npz`, the samples of all, `gan.json`, what they measure, and figure 3."""
  ours = storage.read_npz(run.folder / storage.SAMPLES)
  members = [trained(run, weight) for weight in run.config.gan.entropy_weights]
  num_images, num_samples = ours["sample"].shape[:2]
  encode, train_images = encoder(run), run.images("train")
  h_NU = encode(run.images("test").images[:num_images])
  nearest_NS = nearest_train(run, encode, h_NU, num_samples).rows_MK
  arrays = {
    **ours,
    "entropy_weight": np.asarray(run.config.gan.entropy_weights, np.float64),
    "gan": np.stack([draw(member, num_images, num_samples) for member in members]),
    "nearest": train_images.images[nearest_NS],
    "nearest_index": train_images.index[nearest_NS],
  }
  storage.write_npz(run.folder / storage.GAN_SAMPLES, arrays)
  storage.write_json(run.folder / storage.GAN, _rows(run, encode, arrays))
  report.write_figure_3(run.folder / storage.FIGURES, run.folder)


def trained(run: Run, entropy_weight: float) -> Run:
  """The run of one GAN, trained."""
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.gan.entropy_weights = (entropy_weight,)
  member = Run(config, run.folder / FOLDER / f"entropy_{entropy_weight:g}")
  with locks.owned(member.folder):
    member.begin()
    CLASSIFIER(member)
    say("%s: gan", member.folder)
    train(member)
  return member


def train(run: Run):
  """Trains the GAN of a run that has one entropy weight."""
  run.train(NAME, lambda: subject(run))


def module(run: Run) -> Gan:
  """The generator and its discriminator, without their parameters."""
  images = run.images("train")
  return Gan(images.num_levels, images.image_shape, **run.config.gan.network.to_dict())


def subject(run: Run) -> sessions.Subject:
  """What the training of a GAN with one entropy weight is."""
  gan, train_pairs, section = module(run), run.pairs("train"), run.config.gan
  clean = run.observed.clean(train_pairs)
  (entropy_weight,) = section.entropy_weights
  weights = gans.Weights(section.adversarial_weight, section.conditional_weight, entropy_weight)
  encode_fn, h_variance = run.features.encode, measures.variances(run, run.features.encode)

  def loss_fn(params, batch, key):
    return gans.gan_loss(
      params,
      batch,
      key,
      gan=gan,
      encode_fn=encode_fn,
      variance=h_variance,
      weights=weights,
    )

  def init_fn(keys, images_BHWC, z):
    noise_BE = jnp.zeros((len(images_BHWC), section.network.num_noise))
    return gan.init(keys, z, noise_BE)["params"]

  return sessions.Subject(
    name=NAME,
    init_fn=init_fn,
    first_batch=inversion.first_batch(clean),
    loss_fn=loss_fn,
    batch_fn=clean.batch,
    num_images=len(train_pairs),
    validate=_validate_fn(run, gan, encode_fn, h_variance),
    unit="loss",
    advice="raise gan.num_microbatches or lower gan.batch_size",
  )


def _validate_fn(run, gan, encode_fn, h_variance):
  validation = run.observed.clean(run.pairs("validation"))

  @placement.jit_gathered
  def score_batch(params, image_BHWC, z, index_B):
    noise_BE = _noise(run, "validate", index_B, jnp.zeros_like(index_B))
    made_BHWC = gan.apply({"params": params}, z, noise_BE, method="generate")
    _, predicted_BE = gan.apply({"params": params}, made_BHWC, method="discriminate")
    kept = encode_fn(image_BHWC), encode_fn(made_BHWC)
    return gans.conditional_loss(*kept, h_variance), gans.entropy_loss(noise_BE, predicted_BE)

  def validate(state):
    def score_rows(rows_B):
      batch, index_B = validation.batch(rows_B), placement.put_batch(validation.index[rows_B])
      return score_batch(state.ema_params, batch["image"], batch["h"], index_B)

    conditional_N, entropy_N = scoring.scores(
      score_rows, len(validation), run.eval_batch_size, "validate"
    )
    metrics = {
      "validation_conditional_loss": conditional_N.mean(),
      "validation_entropy_loss": entropy_N.mean(),
    }
    return conditional_N.mean(), metrics

  return validate


def _noise(run, stream, index_B, sample_B):
  """The noise of each (image, sample), a function of nothing else."""
  root_key = training.key_for(run.root_key, f"gan_{stream}")
  keys_B = sampling.sample_keys(root_key, index_B, sample_B)
  num_noise = run.config.gan.network.num_noise
  return jax.vmap(lambda key: jax.random.uniform(key, (num_noise,)))(keys_B)


def draw(run: Run, num_images: int, num_samples: int) -> UInt8[np.ndarray, "N S H W C"]:
  """Samples for the first test images, (N, S, H, W, C).

  Those of the last step: none of a GAN's losses tells which step is the best.
  """
  gan, test = module(run), run.observed.clean(run.pairs("test"))
  params = params_at(run, run.finished(NAME)["step"])

  @placement.jit_gathered
  def draw_batch(params, z, index_B, sample_B):
    noise_BE = _noise(run, "sample", index_B, sample_B)
    return gan.apply({"params": params}, z, noise_BE, method="generate")

  rows_B = np.minimum(np.arange(placement.rounded_up(num_images)), num_images - 1)
  z, index_B = test.batch(rows_B)["h"], placement.put_batch(test.index[rows_B])
  samples = [
    np.asarray(draw_batch(params, z, index_B, jnp.full_like(index_B, sample)))[:num_images]
    for sample in range(num_samples)
  ]
  return np.stack(samples, axis=1).astype(np.uint8)


def params_at(run: Run, step: int) -> Any:
  """Averaged parameters of both players at a step."""
  return run.averaged(NAME, step, param_shapes(run))


def param_shapes(run: Run) -> Any:
  """Shapes and types of the parameters of both; nothing is computed."""
  _, z = inversion.shapes_of(1, run.images("train").image_shape, run.h_shape)
  noise = jax.ShapeDtypeStruct((1, run.config.gan.network.num_noise), jnp.float32)
  return jax.eval_shape(module(run).init, jax.random.key(0), z, noise)["params"]


def _rows(run, encode, arrays):
  """What is measured of each kind of samples, a row each."""
  kinds = {
    **{
      f"GAN, entropy weight {weight:g}": samples
      for weight, samples in zip(arrays["entropy_weight"], arrays["gan"], strict=True)
    },
    "inverter": arrays["sample"],
    "nearest training images": arrays["nearest"],
  }
  readers = {"accuracy": run}
  return [
    {"samples": name} | measures.means(run, measures.of_samples(run, samples, encode, readers))
    for name, samples in kinds.items()
  ]
