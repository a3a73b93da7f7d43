"""One experiment: its configuration and folder, and the models that both describe.

The stages of `stages.py` work on a `Run`; nothing below this module knows the configuration.
"""

import dataclasses
import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from inversion_jax import config as config_lib
from inversion_jax.data import loading
from inversion_jax.data.images import Data
from inversion_jax.features import noise, representations
from inversion_jax.features.classifiers import Classifier
from inversion_jax.fitting import training
from inversion_jax.fitting.training import Recipe, TrainState
from inversion_jax.machine import compilation, placement, processes, storage
from inversion_jax.machine.checkpoints import Checkpoints
from inversion_jax.machine.errors import UserError
from inversion_jax.models import likelihoods
from inversion_jax.models.decoders import Decoder
from inversion_jax.models.gans import Gan
from inversion_jax.models.inverters import Inverter, amortised

PROGRESS = "stages.json"
STATISTICS = "representation.npz"


@functools.lru_cache(maxsize=1)
def load_data(name: str, data_dir: str, **limits: int) -> Data:
  """`loading.load`, remembered, since every stage of every layer reads the same set."""
  return loading.load(name, data_dir=data_dir, **limits)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One experiment; `folder` is the only thing its stages share."""

  config: config_lib.ConfigDict
  folder: pathlib.Path

  @classmethod
  def load(cls, folder: pathlib.Path) -> "Run":
    """The run in `folder`, with its own configuration."""
    return cls(config_lib.restored(storage.read_json(folder / storage.CONFIG)), folder)

  def begin(self):
    """Claims the folder, or raises UserError if it belongs to another configuration."""
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"The folder {self.folder} cannot be made ({error.strerror}); choose another --workdir."
      ) from error
    path = self.folder / storage.CONFIG
    if path.exists():
      changes = config_lib.differences(storage.read_json(path), self.config)
      if changes:
        raise UserError(
          f"{self.folder} belongs to another configuration ({'; '.join(changes)}); choose another "
          "--workdir or delete that folder."
        )
    storage.write_json(path, self.config.to_dict())

  @property
  def layer(self) -> str:
    """The layer that is inverted, "" for none."""
    return self.config.representation.layer

  @property
  def root_key(self) -> jax.Array:
    """The key from which every stream of random numbers is derived."""
    return jax.random.key(self.config.seed)

  @property
  def data(self) -> Data:
    """The data set, in memory."""
    section = self.config.data.to_dict()
    return load_data(section.pop("name"), section.pop("dir"), **section)

  def recipe(self, stage: str) -> Recipe:
    """How the classifier, the inverter, the decoder or the GAN is trained."""
    names = {field.name for field in dataclasses.fields(Recipe)}
    return Recipe(**{name: self.config[stage][name] for name in names})

  def checkpoints(self, stage: str) -> Checkpoints:
    """The checkpoints of one model; the best classifier is the most accurate, else least loss."""
    best_mode = "max" if stage == "classifier" else "min"
    return Checkpoints(self.folder / stage, best_mode, self.milestones(stage))

  def milestones(self, stage: str) -> tuple[int, ...]:
    """Steps whose checkpoints are kept whatever comes after them."""
    return tuple(self.config.classifier.snapshot_steps) if stage == "classifier" else ()

  def progress(self) -> dict:
    """What each finished stage noted: where training ended, for what a file was made."""
    path = self.folder / PROGRESS
    return storage.read_json(path) if path.exists() else {}

  def note(self, stage: str, record: dict):
    """Notes that `stage` is finished."""
    storage.write_json(self.folder / PROGRESS, self.progress() | {stage: record})

  def classifier(self) -> Classifier:
    """The classifier, without its parameters."""
    network = self.config.classifier.network.to_dict()
    return Classifier(**network, num_classes=self.data.num_classes, num_levels=self.data.num_levels)

  def inverter(self) -> Inverter:
    """The inverter, without its parameters."""
    section = self.config.inverter
    likelihood = likelihoods.make(
      **section.likelihood.to_dict(),
      num_levels=self.data.num_levels,
      num_colours=self.data.train.images_NHWC.shape[-1],
    )
    dtype = jnp.dtype(self.config.dtype)
    return Inverter(likelihood, **section.network.to_dict(), dtype=dtype)

  def decoder(self) -> Decoder:
    """The mean-squared-error decoder, without its parameters."""
    num_colours = self.data.train.images_NHWC.shape[-1]
    return Decoder(num_colours, **self.config.decoder.network.to_dict())

  def gan(self) -> Gan:
    """The generator and its discriminator, without their parameters."""
    image_shape = self.data.train.images_NHWC.shape[1:]
    return Gan(self.data.num_levels, image_shape, **self.config.gan.network.to_dict())

  def classifier_step(self) -> int | None:
    """The step of the classifier whose layer is inverted; None without a layer."""
    if not self.layer:
      return None
    if self.config.representation.step != config_lib.BEST_STEP:
      return self.config.representation.step
    return self.finished("classifier")["best_step"]

  def finished(self, stage: str) -> dict:
    """The note of a finished stage, or UserError saying which stage to run."""
    record = self.progress().get(stage)
    if record is None:
      raise UserError(f"{self.folder} has no finished {stage}; run --stages={stage} first.")
    return record

  def restored(self, stage: str, step: int) -> TrainState:
    """The training state of `stage` at `step`."""
    with self.checkpoints(stage) as checkpoints:
      if step not in checkpoints.steps():
        raise UserError(
          f"{self.folder / stage} has no checkpoint of step {step}, only of "
          f"{checkpoints.steps()}; train for that long, or choose one of these."
        )
      return checkpoints.restore(step, state_shape(self, stage))

  def encode_fn(self):
    """The encoder of this run's layer, before standardisation."""
    classifier = self.classifier()
    params = self.restored("classifier", self.classifier_step()).ema_params
    encode_fn = representations.layer_encoder(
      functools.partial(classifier.apply, {"params": params}), self.layer
    )
    return representations.controlled(encode_fn, self.config.representation.control)

  @functools.cached_property
  def represent(self):
    """x -> z, the standardised layer, compiled; None for the unconditional model.

    The statistics are computed once and kept in the folder, with the step of the classifier that
    they, and so the inverter, belong to.

    Raises:
      UserError: the classifier has been trained further since.
    """
    if not self.layer:
      return None
    encode_fn, path, step = self.encode_fn(), self.folder / STATISTICS, self.classifier_step()
    if not path.exists():
      batch_size = placement.rounded_up(self.config.evaluate.batch_size)
      standardiser = representations.fit_standardiser(
        encode_fn, self.data.train.images_NHWC, batch_size
      )
      storage.write_npz(path, {**standardiser._asdict(), "classifier_step": np.int64(step)})
    statistics = storage.read_npz(path)
    begun_with = int(statistics.pop("classifier_step"))
    if begun_with != step:
      raise UserError(
        f"{self.folder / 'inverter'} was trained on the classifier of step {begun_with}, which is "
        f"now at {step}; choose another --workdir."
      )
    standardiser = representations.Standardiser(**statistics)
    return jax.jit(lambda levels_BHWC: standardiser(encode_fn(levels_BHWC)))

  @property
  def channel(self) -> noise.Channel | None:
    """What stands between the standardised layer and the inverter; None for nothing."""
    section = self.config.representation
    if not section.layer:
      return None
    return noise.make(section.sigma, section.bits)

  @functools.cached_property
  def observe(self):
    """(x, index_B) -> z as the inverter sees it; the noise of an image belongs to its index.

    None for the unconditional model. Training draws fresh noise at each step instead.
    """
    if not self.layer:
      return None
    if self.channel is None:
      return lambda images_BHWC, index_B: self.represent(images_BHWC)
    root_key = training.key_for(self.root_key, "channel")

    @jax.jit
    def observe(images_BHWC, index_B):
      keys_B = jax.vmap(lambda index: jax.random.fold_in(root_key, index))(index_B)
      return noise.observed(self.channel, self.represent(images_BHWC), keys_B)

    return observe


# Enough images for the statistics that set scale and bias of every layer.
NUM_INIT_IMAGES = 128


def initial_state(run: Run, stage: str) -> TrainState:
  """The untrained state of `stage`, on all devices."""
  images_BHWC = run.data.train.images_NHWC[:NUM_INIT_IMAGES]
  observe = run.observe if stage != "classifier" else None
  z = observe(images_BHWC, np.arange(len(images_BHWC))) if observe else None
  build = functools.partial(_build_state, run, stage)
  state = compilation.jit_once(build)(images_BHWC, z)
  if stage == "inverter" and run.config.inverter.start_from:
    params = amortised(state.params, _marginal_params(run))
    state = training.initial_state(params, run.recipe(stage).optimizer())
  return placement.put(state, placement.data_parallel()[1])


def _marginal_params(run: Run) -> dict:
  """Averaged parameters of the unconditional run that this one starts from."""
  folder = pathlib.Path(run.config.inverter.start_from)
  if not (folder / storage.CONFIG).exists():
    raise UserError(f"inverter.start_from={folder} is not the folder of a run.")
  marginal = Run.load(folder)
  if marginal.layer or marginal.config.data.name != run.config.data.name:
    raise UserError(
      f"inverter.start_from={marginal.folder} inverts {marginal.layer or 'no layer'} of "
      f"{marginal.config.data.name}; give an unconditional run of {run.config.data.name}."
    )
  return marginal.restored("inverter", marginal.finished("inverter")["best_step"]).ema_params


def state_shape(run: Run, stage: str) -> TrainState:
  """Shapes, types and placement of the state of `stage`, without computing it."""
  images_BHWC, z = run.data.train.images_NHWC[:1], None
  if stage != "classifier" and run.layer:
    init = functools.partial(run.classifier().init_with_output, jax.random.key(0))
    control = run.config.representation.control
    encode_fn = representations.controlled(lambda x: init(x)[0][run.layer], control)
    z = jax.eval_shape(encode_fn, images_BHWC)
  shapes = jax.eval_shape(functools.partial(_build_state, run, stage), images_BHWC, z)
  _, replicated = placement.data_parallel()
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), shapes
  )


def _build_state(run, stage, images_BHWC, z):
  keys = {
    stream: training.key_for(run.root_key, f"{stage}_init_{stream}")
    for stream in ("params", "dropout")
  }
  if stage == "classifier":
    variables = run.classifier().init(keys, images_BHWC)
  elif stage == "decoder":
    variables = run.decoder().init(keys, z, images_BHWC.shape[1:3])
  elif stage == "gan":
    noise_BE = jnp.zeros((len(images_BHWC), run.config.gan.network.num_noise))
    variables = run.gan().init(keys, z, noise_BE)
  else:
    variables = run.inverter().init(keys, images_BHWC, z, train=True)
  return training.initial_state(variables["params"], run.recipe(stage).optimizer())


def share_classifier(run: Run) -> bool:
  """Copies the finished classifier of a run beside or above this one, if one is the same."""
  identity = config_lib.classifier_identity(run.config)
  parent = run.folder.absolute().parent
  for sibling in (*sorted(parent.glob(f"*/{PROGRESS}")), *parent.parent.glob(PROGRESS)):
    other = sibling.parent
    record = storage.read_json(sibling).get("classifier")
    if record is None or other == run.folder.absolute():
      continue
    if config_lib.classifier_identity(storage.read_json(other / storage.CONFIG)) == identity:
      processes.by_first(_copy, other / "classifier", run.folder / "classifier")
      run.note("classifier", record | {"copied_from": other.name, "seconds": 0.0})
      return True
  return False


def _copy(source: pathlib.Path, target: pathlib.Path):
  """Copies a folder in one piece, in the place of what was there."""
  shutil.rmtree(target, ignore_errors=True)
  temporary = target.with_name(f".{target.name}")
  shutil.rmtree(temporary, ignore_errors=True)
  shutil.copytree(source, temporary)
  temporary.rename(target)
