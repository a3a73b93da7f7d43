"""Trains the rival of figure 3, a GAN given h, and measures its samples beside ours.

One GAN for each `gan.entropy_weights`, each an ordinary run under `gan/`, on the classifier of the
run itself.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from inversion_jax import (
  batches,
  diversity,
  evaluation,
  gans,
  information,
  placement,
  report,
  sampling,
  storage,
  training,
)
from inversion_jax.errors import UserError
from inversion_jax.progress import say
from inversion_jax.runs import Run
from inversion_jax.stages.train import is_trained, train_classifier, train_model

FOLDER = "gan"
NUM_VARIANCE_IMAGES = 1000


def compare_with_gans(run: Run):
  """Writes `gan.npz`, the samples of all, `gan.json`, what they measure, and figure 3."""
  if not run.layer or not run.config.gan.entropy_weights:
    raise UserError(
      "The gan stage is for a run that inverts a layer, with at least one of gan.entropy_weights."
    )
  if run.config.sample.num_samples < 2:
    raise UserError("sample.num_samples=1 has no diversity; draw 2 samples or more of each image.")
  run.finished("sample")
  start = time.monotonic()
  ours = storage.read_npz(run.folder / storage.SAMPLES)
  members = [_trained(run, weight) for weight in run.config.gan.entropy_weights]
  record = {
    "steps": [member.finished("gan")["step"] for member in members],
    "entropy_weights": list(run.config.gan.entropy_weights),
    "sampled": run.finished("sample"),
  }
  done = run.progress().get("gan", {})
  if done | record == done:
    return
  num_images, num_samples = ours["sample"].shape[:2]
  nearest_NS = nearest_rows(run, num_images, num_samples)
  arrays = {
    **ours,
    "entropy_weight": np.asarray(run.config.gan.entropy_weights, np.float64),
    "gan": np.stack([_draw(member, num_images, num_samples) for member in members]),
    "nearest": run.data.train.images_NHWC[nearest_NS],
    "nearest_index": run.data.train.index_N[nearest_NS],
  }
  storage.write_npz(run.folder / storage.GAN_SAMPLES, arrays)
  storage.write_json(run.folder / storage.GAN, _rows(run, arrays))
  report.write_figure_3(run.folder / storage.FIGURES, run.folder)
  run.note("gan", record | {"seconds": time.monotonic() - start})


def _trained(run: Run, entropy_weight: float) -> Run:
  """The run of one GAN, trained."""
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.gan.entropy_weights = (entropy_weight,)
  member = Run(config, run.folder / FOLDER / f"entropy_{entropy_weight:g}")
  member.begin()
  train_classifier(member)
  say("%s: gan", member.folder)
  train_gan(member)
  return member


def train_gan(run: Run):
  """Trains the GAN of a run that has one entropy weight."""
  if is_trained(run, "gan"):
    return
  gan, represent, encode_fn, split = run.gan(), run.represent, run.encode_fn(), run.data.train
  section = run.config.gan
  (entropy_weight,) = section.entropy_weights
  weights = gans.Weights(section.adversarial_weight, section.conditional_weight, entropy_weight)
  h_variance = _variance(encode_fn, split)

  def loss_fn(params, batch, key):
    return gans.gan_loss(
      *(params, batch, key),
      **{"gan": gan, "encode_fn": encode_fn, "variance": h_variance, "weights": weights},
    )

  def batch_fn(rows_B):
    image_BHWC = placement.put_batch(split.images_NHWC[rows_B])
    return {"image": image_BHWC, "z": represent(image_BHWC)}

  @jax.jit
  def score_batch(params, image_BHWC, index_B):
    noise_BE = _noise(run, "validate", index_B, jnp.zeros_like(index_B))
    z = represent(image_BHWC)
    made_BHWC = gan.apply({"params": params}, z, noise_BE, method="generate")
    _, predicted_BE = gan.apply({"params": params}, made_BHWC, method="discriminate")
    kept = encode_fn(image_BHWC), encode_fn(made_BHWC)
    return gans.conditional_loss(*kept, h_variance), gans.entropy_loss(noise_BE, predicted_BE)

  def validate(state):
    images, index = run.data.validation.images_NHWC, run.data.validation.index_N

    def score_rows(rows_B):
      return score_batch(state.ema_params, *placement.put_batch((images[rows_B], index[rows_B])))

    batch_size = placement.rounded_up(run.config.evaluate.batch_size)
    conditional_N, entropy_N = evaluation.scores(score_rows, len(images), batch_size, "validate")
    metrics = {
      "validation_conditional_loss": conditional_N.mean(),
      "validation_entropy_loss": entropy_N.mean(),
    }
    return conditional_N.mean(), metrics

  train_model(run, "gan", loss_fn, batch_fn, validate, len(split.images_NHWC))


def _variance(encode_fn, split):
  """Of h over images, the mean over units."""
  h = np.asarray(encode_fn(split.images_NHWC[:NUM_VARIANCE_IMAGES]), np.float64)
  return float(h.var(0).mean())


def _noise(run, stream, index_B, sample_B):
  """The noise of each (image, sample), a function of nothing else."""
  root_key = training.key_for(run.root_key, f"gan_{stream}")
  keys_B = sampling.sample_keys(root_key, index_B, sample_B)
  num_noise = run.config.gan.network.num_noise
  return jax.vmap(lambda key: jax.random.uniform(key, (num_noise,)))(keys_B)


def _draw(run, num_images, num_samples):
  """Samples for the first test images, (N, S, H, W, C).

  Those of the last step: none of a GAN's losses tells which step is the best.
  """
  gan, represent, test = run.gan(), run.represent, run.data.test
  params = run.restored("gan", run.finished("gan")["step"]).ema_params

  @jax.jit
  def draw(image_BHWC, index_B, sample_B):
    noise_BE = _noise(run, "sample", index_B, sample_B)
    return gan.apply({"params": params}, represent(image_BHWC), noise_BE, method="generate")

  batch_size = placement.rounded_up(num_images)
  rows_B = np.minimum(np.arange(batch_size), num_images - 1)
  image_BHWC, index_B = placement.put_batch((test.images_NHWC[rows_B], test.index_N[rows_B]))
  samples = [
    np.asarray(draw(image_BHWC, index_B, jnp.full_like(index_B, sample)))[:num_images]
    for sample in range(num_samples)
  ]
  return np.stack(samples, axis=1).astype(np.uint8)


def nearest_rows(run: Run, num_images: int, num_nearest: int) -> np.ndarray:
  """Rows of the training images nearest to the first test images by the layer's L1, (N, S)."""
  encode_fn = run.encode_fn()
  h_train = _encoded(run, encode_fn, run.data.train.images_NHWC)
  h_test = _encoded(run, encode_fn, run.data.test.images_NHWC[:num_images])
  distance_of = (np.abs(h_train - h).mean(1) for h in h_test)
  return np.stack([np.argsort(distance, kind="stable")[:num_nearest] for distance in distance_of])


def _encoded(run, encode_fn, images_NHWC):
  """The layer of all images, one row of units each."""
  batch_size = placement.rounded_up(run.config.evaluate.batch_size)
  parts = [
    np.asarray(encode_fn(images_NHWC[rows_B]))[is_valid_B]
    for rows_B, is_valid_B in batches.eval_batches(len(images_NHWC), batch_size)
  ]
  return np.concatenate(parts).reshape(len(images_NHWC), -1)


def _rows(run, arrays):
  """What is measured of each kind of samples, a row each."""
  kinds = {
    **{
      f"GAN, entropy weight {weight:g}": samples
      for weight, samples in zip(arrays["entropy_weight"], arrays["gan"], strict=True)
    },
    "inverter": arrays["sample"],
    "nearest training images": arrays["nearest"],
  }
  measured = [_measured(run, arrays, samples) for samples in kinds.values()]
  return [{"samples": name} | row for name, row in zip(kinds, measured, strict=True)]


def _measured(run, arrays, samples_NSHWC):
  """Means over test images, with standard errors; pixels as a fraction of their range."""
  pairwise_N = diversity.pairwise_l1(samples_NSHWC) / (run.data.num_levels - 1)
  to_original_N = diversity.l1_to_originals(samples_NSHWC, arrays["original"])
  to_original_N /= run.data.num_levels - 1
  feature_N, accuracy_N = _through_classifier(run, arrays, samples_NSHWC)
  values = {
    "diversity": pairwise_N,
    "l1_to_original": to_original_N,
    "diversity_minus_l1_to_original": pairwise_N - to_original_N,
    "feature_l1_to_original": feature_N,
    "accuracy": accuracy_N,
  }
  sources_N = run.data.test.source_N[: len(samples_NSHWC)]
  row = {}
  for name, values_N in values.items():
    estimate = information.mean_with_error(values_N, sources_N)
    row |= {name: estimate.mean, f"{name}_standard_error": estimate.standard_error}
  return row


def _through_classifier(run, arrays, samples_NSHWC):
  """(L1 between the layer of a sample and of its original; fraction read as the label), N each."""
  num_images, num_samples = samples_NSHWC.shape[:2]
  images_MHWC = samples_NSHWC.reshape(-1, *samples_NSHWC.shape[2:])
  encode_fn, classifier = run.encode_fn(), run.classifier()
  params = run.restored("classifier", run.classifier_step()).ema_params
  logits = jax.jit(lambda images_BHWC: classifier.apply({"params": params}, images_BHWC)["logits"])
  h = _encoded(run, encode_fn, arrays["original"])
  made_h = _encoded(run, encode_fn, images_MHWC).reshape(num_images, num_samples, -1)
  label_NS = _encoded(run, logits, images_MHWC).argmax(-1).reshape(num_images, num_samples)
  is_correct_NS = label_NS == arrays["label"][:, None]
  return np.abs(made_h - h[:, None]).mean((1, 2)), is_correct_NS.mean(1)
