"""Trains the rival of figure 3, a GAN given h, and measures its samples beside ours.

One GAN for each `gan.entropy_weights`, each an ordinary run under `gan/`, on the classifier of the
run itself.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from inversion_jax import information, report
from inversion_jax.data.images import Split
from inversion_jax.fitting import scoring as evaluation
from inversion_jax.fitting import training
from inversion_jax.information import diversity, neighbours
from inversion_jax.machine import placement, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.machine.progress import say
from inversion_jax.models import gans, sampling
from inversion_jax.runs import Run
from inversion_jax.stages import scoring
from inversion_jax.stages.neighbours import encoder
from inversion_jax.stages.train import images_and_z, is_trained, train_classifier, train_model

FOLDER = "gan"
NUM_VARIANCE_IMAGES = 1000


def compare_with_gans(run: Run):
  """Writes `gan.npz`, the samples of all, `gan.json`, what they measure, and figure 3."""
  if not run.layer or run.channel or not run.config.gan.entropy_weights:
    raise UserError(
      "The gan stage is for a run that inverts a layer as it is, with at least one of "
      "gan.entropy_weights."
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
  encode = encoder(run, _batch_size(run))
  nearest_NS = _nearest_rows(run, encode, num_images, num_samples)
  arrays = {
    **ours,
    "entropy_weight": np.asarray(run.config.gan.entropy_weights, np.float64),
    "gan": np.stack([_draw(member, num_images, num_samples) for member in members]),
    "nearest": run.data.train.images_NHWC[nearest_NS],
    "nearest_index": run.data.train.index_N[nearest_NS],
  }
  storage.write_npz(run.folder / storage.GAN_SAMPLES, arrays)
  storage.write_json(run.folder / storage.GAN, _rows(run, encode, arrays))
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

  @placement.jit_gathered
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

    scored = evaluation.scores(score_rows, len(images), _batch_size(run), "validate")
    conditional_N, entropy_N = scored
    metrics = {
      "validation_conditional_loss": conditional_N.mean(),
      "validation_entropy_loss": entropy_N.mean(),
    }
    return conditional_N.mean(), metrics

  train_model(run, "gan", loss_fn, images_and_z(run), validate, len(split.images_NHWC), "loss")


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

  @placement.jit_gathered
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


def _nearest_rows(run, encode, num_images, num_nearest):
  """Rows of the training images nearest to the first test images by the layer's L1, (N, S)."""
  train, test = run.data.train, run.data.test
  near = neighbours.nearest(
    encode(test.images_NHWC[:num_images]),
    lambda rows_B: encode(train.images_NHWC[rows_B]),
    *(len(train.images_NHWC), _batch_size(run), num_nearest),
  )
  return near.rows_MK


def _batch_size(run):
  return placement.rounded_up(run.config.evaluate.batch_size)


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
  measured = [_measured(run, encode, arrays, samples) for samples in kinds.values()]
  return [{"samples": name} | row for name, row in zip(kinds, measured, strict=True)]


def _measured(run, encode, arrays, samples_NSHWC):
  """Means over test images, with standard errors; pixels as a fraction of their range."""
  pairwise_N = diversity.pairwise_l1(samples_NSHWC) / (run.data.num_levels - 1)
  to_original_N = diversity.l1_to_originals(samples_NSHWC, arrays["original"])
  to_original_N /= run.data.num_levels - 1
  feature_N, accuracy_N = _through_classifier(run, encode, arrays, samples_NSHWC)
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


def _through_classifier(run, encode, arrays, samples_NSHWC):
  """(L1 between the layer of a sample and of its original; fraction read as the label), N each."""
  num_images, num_samples = samples_NSHWC.shape[:2]
  images_MHWC = samples_NSHWC.reshape(-1, *samples_NSHWC.shape[2:])
  rows_M = np.repeat(np.arange(num_images), num_samples)
  h_MU = encode(arrays["original"])[rows_M]
  feature_l1_M = neighbours.l1_distance(encode(images_MHWC), h_MU)
  params = run.restored("classifier", run.classifier_step()).ema_params
  labelled = Split(images_MHWC, arrays["label"][rows_M], rows_M, rows_M)
  is_correct_M, _ = scoring.classifier_scorer(run)(params, labelled)
  return tuple(
    np.asarray(values_M, np.float64).reshape(num_images, num_samples).mean(1)
    for values_M in (feature_l1_M, is_correct_M)
  )
