"""The configuration that every experiment starts from: the paper's, on MNIST."""

import dataclasses

from ml_collections import ConfigDict

from inversion_jax.features import classifiers
from inversion_jax.fitting import training
from inversion_jax.machine.limits import SAME_SEED
from inversion_jax.models import gans, optimisation
from inversion_jax.models.decoders import Decoder

NO_LAYER = ""
BEST_STEP = -1
# What replicates may have of their own: the classifier with its order, the order of the inverter,
# and all else that is random: initialisation, dropout, noise and samples.
SEEDED = ("classifier", "order", "inverter")
# The only layer of a data set that is a file of images and features.
STORED_LAYER = "h"
FILE_ENDING = ".npz"
# Sections of models that are trained, each with the fields of a `Recipe`.
MODELS = ("classifier", "inverter", "decoder", "gan", "perceptual", "deepsim", "gated")


def default() -> ConfigDict:
  """The configuration that every file of `configs/` starts from: the paper's, on MNIST."""
  config = ConfigDict()
  config.seed = 0
  # Replicates of every run, of the seeds seed, seed + 1, ...: one row of a comparison.
  config.seeds = 1
  config.vary = ",".join(SEEDED)  # what a replicate has of its own; the rest keeps the first seed
  config.dtype = "float32"  # of the inverter's activations; "bfloat16" for accelerators
  config.layers = ()  # several layers: one run for each, compared
  config.data = ConfigDict(
    {
      "name": "mnist",  # or a file of images and features, such as mine.npz
      "dir": "",  # "" is $TFDS_DATA_DIR, or ~/tensorflow_datasets
      "num_train": 0,  # use the first images alone; 0 is all
      "num_validation": 0,
      "num_test": 0,
      # Of a file: the seed by which its test images are chosen; -1 takes the last ones.
      "split_seed": 0,
    }
  )
  config.classifier = _recipe(learning_rate=3e-4, decay="none", ema_decay=0.0, batch_size=128)
  config.classifier.update(
    {
      "patience": 20,
      "half": 0,  # of the training images: 1 or 2 for one of two halves; 0 is all
      "seed": SAME_SEED,
      "num_train": 0,  # train the classifier on the first images alone; 0 is all
      "snapshot_steps": (0, 100, 1_000, 10_000, 100_000),
    }
  )
  config.classifier.network = _fields_of(
    classifiers.Classifier, kind="conv", without=("num_classes", "num_levels", "backward")
  )
  config.representation = ConfigDict(
    {
      "layer": "conv2",  # "" is no layer: the unconditional model p(x)
      "step": BEST_STEP,  # of the classifier: one of its snapshot_steps, or -1, its best
      # Of the checks: "shuffled", "permuted", "rescaled", "pixels" or "top_rows" in the place of h.
      "control": "",
      "sigma": 0.0,  # noise on each standardised unit of h, which makes I(x; h) a real quantity
      "bits": 0,  # or few bits for each unit
    }
  )
  config.inverter = _recipe()
  # Filters are rounded up to a multiple while training; it is the same model. 64 is for GPUs.
  config.inverter.filter_multiple = 1
  config.inverter.half = 0  # as the classifier's, and of all that is learnt from h
  config.inverter.order_seed = SAME_SEED  # of the order in which it visits the images
  config.inverter.likelihood = ConfigDict(
    {"name": "auto", "num_components": 10, "min_log_scale": -7.0}
  )
  # Folder of a trained p(x) with the same network, to begin from in place of random weights.
  config.inverter.start_from = ""
  # Whether the reader begins from the run's decoder, trained before: stages decoder, inverter. Both
  # need the same parts: decoder.network.residual, and its filters, blocks, scales and units.
  config.inverter.start_reader_from_decoder = False
  # Whether every image of the first pass is scored before it is learnt: one forward pass more.
  config.inverter.codelength = True
  config.inverter.network = ConfigDict(
    {
      "num_filters": 64,
      "num_blocks": 3,
      "num_scales": 3,
      "dropout_rate": 0.5,
      "context": "decoder",  # the reader of h; the paper's is "projection", "encoder" is between
      "context_dropout_rate": 0.0,
      "resize_method": "bilinear",
      # Of the network that brings h to every resolution, with context "decoder".
      "reader_filters": 48,
      "reader_blocks": 1,
      "reader_units": 512,
      "reader_dropout_rate": 0.0,
      "reader_places": 32,  # features of the place alone, which p(x) has, too
      "reader_direct": 16,  # features of each pixel that are lines in a vector
      "reader_even": False,  # zeros in their place for a map, so that layers share programs
      "reader_taper": 1,  # how many times fewer filters the finest grid has, if doubling makes it
      "architecture": "pixelcnn++",  # or "gated", of van den Oord et al. (2016b)
      "remat": "",  # computed again to save memory: "elementwise" or "blocks"; not felt on CPUs
    }
  )
  config.decoder = _recipe(num_steps=20_000, decay="cosine", ema_decay=0.999)
  config.decoder.network = _fields_of(Decoder, without=("num_colours",))
  config.gan = _gan()
  config.perceptual = _judged_decoder(adversarial_weight=0.0)
  config.deepsim = _judged_decoder(adversarial_weight=0.01, adam_b1=0.5)
  config.gated = _gated()
  config.evaluate = ConfigDict(
    {
      "batch_size": 128,
      "num_maps": 1_000,  # test images whose nats are kept pixel by pixel
    }
  )
  config.brackets = ConfigDict(  # of the brackets stage, one further inverter for each channel
    {"sigmas": (0.1, 0.3, 1.0, 3.0), "bits": (1, 3)}
  )
  config.sample = ConfigDict(
    {
      "num_images": 10,
      "num_samples": 8,
      "batch_size": 80,
      "sampler": "auto",  # or "cached" (what auto is), "fixed_point", "ancestral"
      "num_given_rows": 0,  # complete the test images from their first rows
    }
  )
  config.optimisation = ConfigDict(dataclasses.asdict(optimisation.Descent()))
  # Every method on the first test images; those that draw draw so many of each, and the one that
  # optimises begins as often.
  config.gallery = ConfigDict(
    {
      "num_images": 250,
      "num_samples": 4,
      "entropy_weight": 10.0,  # of the GAN
    }
  )
  # Table 1 compares the first test images with so many samples each.
  # Figure 2 shows the closest of `num_many` samples of the first `num_shown`; 0 is none.
  config.neighbours = ConfigDict(
    {"num_images": 500, "num_samples": 10, "num_shown": 8, "num_many": 0}
  )
  return config


def is_file(name: str) -> bool:
  """Whether a data set's name is the path of a file of images and features."""
  return name.endswith(FILE_ENDING)


def _recipe(**changes) -> ConfigDict:
  return ConfigDict(dataclasses.asdict(training.Recipe(**changes)))


def _gan() -> ConfigDict:
  """The rival of figure 3, as its source has it: Huang et al. (2017) and their implementation."""
  config = _recipe(
    batch_size=100,
    num_steps=100_000,
    learning_rate=1e-4,
    decay="none",
    adam_b1=0.5,
    ema_decay=0.999,
  )
  config.update(
    {
      "adversarial_weight": 1.0,
      "conditional_weight": 1.0,
      "entropy_weights": (0.0, 10.0, 30.0, 100.0),  # one GAN for each; the source's is 10
    }
  )
  config.network = _fields_of(gans.Gan, without=("num_levels", "image_shape"))
  return config


def _judged_decoder(adversarial_weight: float, **recipe) -> ConfigDict:
  """Decoders with a comparator; their networks are those of `decoder` and `gan`."""
  config = _recipe(num_steps=20_000, decay="cosine", ema_decay=0.999, **recipe)
  config.update(
    {
      "image_weight": 1.0,  # of the squared error of sub-pixels from 0 to 1
      "feature_weight": 1.0,  # of the squared error of features, as a fraction of their variance
      "adversarial_weight": adversarial_weight,
      "comparator_layers": (),  # of the classifier; () is all of them
    }
  )
  return config


def _gated() -> ConfigDict:
  """The gated PixelCNN that stands beside the inverter; what is not here is the inverter's."""
  config = _recipe()
  config.network = ConfigDict(
    {
      "architecture": "gated",
      "num_filters": 64,
      "num_blocks": 15,
      "dropout_rate": 0.5,
      "context": "projection",  # equations 4 and 5 of its source, h as it is
    }
  )
  return config


def _fields_of(module: type, without=(), **changes) -> ConfigDict:
  """The attributes of a Linen module as a section, so that both always have the same names."""
  fields = {
    field.name: changes.get(field.name, field.default)
    for field in dataclasses.fields(module)
    if field.name not in (*without, "parent", "name")
  }
  return ConfigDict(fields)
