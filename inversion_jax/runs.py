"""One experiment: its configuration, its folder and the notes in it.

The stages work on a `Run`; nothing below this module knows the configuration. What a run reads from
its folder it never writes by being asked.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inversion_jax import config as config_lib
from inversion_jax import inversion
from inversion_jax.data import loading
from inversion_jax.data.images import Data
from inversion_jax.features import noise, pairs, sources, wrappers
from inversion_jax.features.classifiers import Classifier
from inversion_jax.features.pairs import Pairs
from inversion_jax.features.sources import Features
from inversion_jax.fitting import sessions
from inversion_jax.fitting.training import Recipe
from inversion_jax.inversion import Inversion, Network, Observed
from inversion_jax.machine import notes, placement, storage
from inversion_jax.machine.errors import UserError


@functools.lru_cache(maxsize=1)
def load_data(name: str, data_dir: str, **limits: int) -> Data:
  """`loading.load`, remembered, since every stage of every layer reads the same set."""
  return loading.load(name, data_dir=data_dir, **limits)


@functools.lru_cache(maxsize=1)
def load_file(path: str, split_seed: int, **limits: int) -> dict[str, Pairs]:
  """The pairs of a file by split, remembered; limits as of `loading.load`, 0 being a tenth."""
  everything = pairs.pairs(path)
  seed = None if split_seed < 0 else split_seed
  rest, test = everything.split(limits["num_test"] or None, seed)
  train, validation = rest.held_out(limits["num_validation"] or None)
  num_train = min(limits["num_train"] or len(train), len(train))
  return {"train": train.rows(np.arange(num_train)), "validation": validation, "test": test}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One experiment; `folder` is the only thing its stages share."""

  config: config_lib.ConfigDict
  folder: pathlib.Path

  @classmethod
  def load(cls, folder: pathlib.Path) -> "Run":
    """The run in `folder`, with its own configuration."""
    return cls(config_lib.restored(storage.read_record(folder / storage.CONFIG)), folder)

  def check_folder(self):
    """Raises UserError if the folder belongs to another configuration, or cannot be one."""
    existing = self.existing_folder
    if not existing.is_dir():
      raise UserError(
        f"The folder {self.folder} cannot be made ({existing} is a file); choose another --workdir."
      )
    if not os.access(existing, os.W_OK | os.X_OK):
      raise UserError(f"{existing} cannot be written to; choose another --workdir.")
    path = self.folder / storage.CONFIG
    if not path.exists():
      return
    changes = config_lib.differences(storage.read_record(path), self.config)
    if changes:
      raise UserError(
        f"{self.folder} belongs to another configuration ({'; '.join(changes)}); choose another "
        "--workdir or delete that folder."
      )

  def begin(self):
    """Claims the folder, or raises UserError as `check_folder`."""
    self.check_folder()
    storage.make_folder(self.folder)
    storage.write_json(self.folder / storage.CONFIG, self.config.to_dict())

  @property
  def existing_folder(self) -> pathlib.Path:
    """The folder, or the nearest above it that there is."""
    return next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())

  @property
  def layer(self) -> str:
    """What is inverted: a layer of the classifier, or "h" of a file; "" for p(x)."""
    return self.config.representation.layer

  @property
  def has_classifier(self) -> bool:
    """Whether h is a layer of a classifier that the run trains."""
    return bool(self.layer) and not self._is_file

  @property
  def root_key(self) -> jax.Array:
    """The key from which every stream of random numbers is derived."""
    return jax.random.key(self.config.seed)

  @property
  def eval_batch_size(self) -> int:
    """Images at a time wherever all of a set are gone through."""
    return placement.rounded_up(self.config.evaluate.batch_size)

  @property
  def data(self) -> Data:
    """The data set, in memory."""
    section = self.config.data.to_dict()
    del section["split_seed"]
    return load_data(section.pop("name"), section.pop("dir"), **section)

  @property
  def _is_file(self):
    return config_lib.is_file(self.config.data.name)

  def recipe(self, model: str) -> Recipe:
    """How one of the run's models is trained, by the name of its section."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    return Recipe(**{name: self.config[model][name] for name in names})

  def train(self, model: str, subject: Callable[[], sessions.Subject]):
    """Trains one of the run's models of h, by the name of its section, unless it is trained."""
    # Statistics that were lost are made again even where the model is trained.
    self.fit_statistics()
    if self.is_trained(model):
      return
    sessions.train(subject(), self.recipe(model), seed=self.config.seed, folder=self.folder)

  def network(self) -> Network:
    """The size and kind of the inverter."""
    return inversion.network_of(self.config.to_dict())

  def is_trained(self, model: str) -> bool:
    """Whether one of the run's models has come to its end."""
    return sessions.is_finished(self.folder, model, self.config[model].num_steps)

  def check_batch_size(self, model: str, num_images: int):
    """Raises UserError if a batch of `model` does not fit `num_images`, or not the devices."""
    section = self.config[model]
    placement.check_batch_size(
      section.batch_size, num_images, f"{model}.batch_size", section.num_microbatches
    )

  def check_evidence(self, num_images: int, field: str):
    """Raises UserError, naming `field`, if so many test images are too few for an interval."""
    num_sources = len(np.unique(self.images("test").sources[:num_images]))
    if num_sources < 2:
      raise UserError(
        f"{field}={num_images} leaves {num_sources} test image of its own, and an interval needs "
        "two or more."
      )

  def notes(self) -> dict[str, dict[str, Any]]:
    """What each finished stage noted, by name; see `machine.notes`."""
    return notes.read(self.folder)

  def note(self, stage: str, record: dict[str, Any]):
    """Notes that `stage` is finished."""
    notes.write(self.folder, stage, record)

  def finished(self, stage: str) -> dict[str, Any]:
    """The note of a finished stage, or UserError saying which stage to run."""
    return notes.finished(self.folder, stage)

  def classifier(self) -> Classifier:
    """The classifier, without its parameters."""
    network = self.config.classifier.network.to_dict()
    return Classifier(**network, num_classes=self.data.num_classes, num_levels=self.data.num_levels)

  def classifier_step(self) -> int | None:
    """The step of the classifier whose layer is inverted; None without one."""
    if not self.has_classifier:
      return None
    if self.config.representation.step != config_lib.BEST_STEP:
      return self.config.representation.step
    return self.finished("classifier")["best_step"]

  def classifier_params(self) -> Any:
    """The averaged parameters at that step."""
    return self.averaged("classifier", self.classifier_step(), self.classifier_shapes())

  def classifier_shapes(self) -> Any:
    """Shapes and types of its parameters; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *self.data.train.images_NHWC.shape[1:]), jnp.uint8)
    return jax.eval_shape(self.classifier().init, jax.random.key(0), images)["params"]

  def averaged(self, model: str, step: int, like: Any) -> Any:
    """The averaged parameters of a model at a step, in the shapes of `like`.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    like = {"ema_params": placement.replicated_shapes(like)}
    return sessions.saved_parts(self.folder, model, step, like)["ema_params"]

  def layers_fn(self, **fields: Any) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Images to all activations of the trained classifier; `fields` are what it has otherwise."""
    classifier = self.classifier().clone(**fields)
    return functools.partial(classifier.apply, {"params": self.classifier_params()})

  @functools.cached_property
  def features(self) -> Features | None:
    """The source of h, before it is standardised; None for p(x)."""
    if not self.layer:
      return None
    if self._is_file:
      return self._controlled(self._file_pairs()["train"].features)
    return self._controlled(self._layer(self.layers_fn()))

  @functools.cached_property
  def h_shape(self) -> tuple[int, ...] | None:
    """Of the h of one image, also before the classifier is trained; None for p(x)."""
    if not self.has_classifier:
      return self.features.shape if self.layer else None
    layers_fn = functools.partial(self.classifier().init_with_output, jax.random.key(0))
    return self._controlled(self._layer(lambda images: layers_fn(images)[0])).shape

  def _layer(self, layers_fn):
    return sources.Layer(layers_fn, self.layer, self.data.train.images_NHWC.shape[1:])

  def _controlled(self, source):
    image_shape = self.images("train").image_shape
    return wrappers.controlled(source, self.config.representation.control, image_shape)

  def pairs(self, split: str) -> Pairs:
    """The images of "train", "validation" or "test", with the source of their h."""
    return dataclasses.replace(self.images(split), features=self.features)

  def images(self, split: str) -> Pairs:
    """`pairs` for the unconditional model: without h, so that no classifier is needed."""
    return self._half(self._all_images(split), split, "inverter")

  def classifier_images(self) -> Pairs:
    """The images that the classifier may be trained on."""
    return self._half(self._all_images("train"), "train", "classifier")

  def _half(self, images, split, model):
    half = self.config[model].half
    return images.half(half) if half and split == "train" else images

  def _all_images(self, split):
    if self._is_file:
      return self._file_pairs()[split].without_h()
    content = getattr(self.data, split)
    return Pairs(
      images=content.images_NHWC,
      features=None,
      index=content.index_N,
      labels=content.labels_N,
      sources=content.source_N,
      num_levels=self.data.num_levels,
      dataset=self.data.name,
    )

  def _file_pairs(self):
    section = self.config.data.to_dict()
    del section["dir"]
    if not pathlib.Path(section["name"]).is_file():
      raise UserError(
        f"data.name={section['name']} is not a file; give an .npz file that holds x and h."
      )
    return load_file(section.pop("name"), **section)

  @property
  def channel(self) -> noise.Channel | None:
    """What stands between the standardised layer and the inverter; None for nothing."""
    section = self.config.representation
    return noise.make(section.sigma, section.bits) if section.layer else None

  @property
  def observed(self) -> Observed:
    """How h reaches the models, from the statistics that were kept when the first was begun.

    Raises:
      UserError: none was begun, or the classifier has been trained further since.
    """
    if not self.layer:
      return inversion.AS_IT_IS
    path, step = self.folder / inversion.STATISTICS, self.classifier_step()
    if not path.exists():
      raise UserError(f"{path} is missing; run --stages=inverter first, which makes it again.")
    statistics = storage.read_npz(path)
    begun_with = statistics.get("classifier_step")
    if begun_with is not None and int(begun_with) != step:
      raise UserError(
        f"{self.folder / 'inverter'} was trained on the classifier of step {begun_with}, which is "
        f"now at {step}; choose another --workdir."
      )
    return Observed(inversion.saved_standardiser(self.folder), self.channel)

  def fit_statistics(self):
    """Keeps mean and spread of h over the training images, unless a model was begun with some."""
    if self.layer and not (self.folder / inversion.STATISTICS).exists():
      step = self.classifier_step()
      facts = {} if step is None else {"classifier_step": np.asarray(step, np.int64)}
      inversion.fit_statistics(self.pairs("train"), self.folder, self.eval_batch_size, facts)

  @property
  def model(self) -> Inversion:
    """The trained inverter, at its best step.

    Raises:
      UserError: it is not trained, or its checkpoint is damaged.
    """
    self.finished("inverter")
    test = self.images("test")
    return inversion.restored(
      self.folder,
      image_shape=test.image_shape,
      num_levels=test.num_levels,
      h_shape=self.features.shape if self.features else None,
      observed=self.observed,
    )
