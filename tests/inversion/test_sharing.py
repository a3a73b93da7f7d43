"""Models as files for others: what is saved is what is loaded, and nothing runs code."""

import dataclasses
import inspect
import json
import os
import pathlib
import pickle
import shutil

import jax
import numpy as np
import pytest

import inversion_jax as ij
from inversion_jax.features import noise
from inversion_jax.fitting.training import Recipe
from inversion_jax.inversion import AS_IT_IS, Inversion, sharing
from inversion_jax.inversion import hub as hub_lib
from inversion_jax.inversion.networks import param_shapes
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError

NOTE = {"step": 5, "best_step": 4, "stopped_early": False, "seconds": 7200.0, "best_value": 1.0}


def untrained(**fields):
  """A colour p(x) whose parameters are numbers in order, never compiled."""
  network = ij.Network(num_filters=2, num_blocks=1, num_scales=1, num_components=3, **fields)
  inverter = network.inverter(256, 3)
  shapes = param_shapes(inverter, (6, 5, 3), None)
  params = jax.tree.map(lambda leaf: np.arange(leaf.size, dtype=np.float32), shapes)
  params = jax.tree.map(lambda leaf, shape: leaf.reshape(shape.shape), params, shapes)
  return Inversion(
    inverter=inverter,
    params=params,
    live_params=jax.tree.map(np.negative, params),
    observed=AS_IT_IS,
    layer="none",
    image_shape=(6, 5, 3),
    num_levels=256,
    h_shape=None,
    seed=3,
    note=NOTE,
    recipe=Recipe(num_steps=5),
  )


@pytest.fixture(scope="module")
def saved(finished, tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved") / "mine"
  finished.model.save(folder)
  return folder


def assert_same_arrays(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_saved_model_is_the_one_that_is_loaded(finished, saved):
  assert sorted(path.name for path in saved.iterdir()) == sorted(hub_lib.FILES)
  loaded, model = ij.load(saved), finished.model
  test = finished.pairs("test")
  np.testing.assert_array_equal(loaded.nats(test), model.nats(test))
  for field in dataclasses.fields(Inversion):
    if field.name not in ("folder", "train", "note", "observed", "params", "live_params"):
      assert getattr(loaded, field.name) == getattr(model, field.name), field.name
  assert_same_arrays((loaded.params, loaded.live_params), (model.params, model.live_params))
  assert_same_arrays(loaded.observed.standardiser, model.observed.standardiser)
  assert repr(loaded) == repr(model)
  assert loaded.folder is None


def test_a_mixture_a_channel_and_a_prior_survive(tmp_path, finished):
  prior = untrained(dtype="bfloat16", min_log_scale=-5.0)
  prior.save(tmp_path / "prior")
  loaded = ij.load(tmp_path / "prior")
  assert loaded.inverter == prior.inverter
  assert loaded.inverter.likelihood.min_log_scale == -5.0
  assert_same_arrays(loaded.live_params, prior.live_params)
  for channel in (noise.Gaussian(0.5), noise.make(0.0, 3)):
    observed = dataclasses.replace(finished.model.observed, channel=channel)
    dataclasses.replace(finished.model, observed=observed).save(tmp_path / "noisy")
    assert ij.load(tmp_path / "noisy").observed.channel == channel


def test_the_average_may_be_saved_alone(tmp_path):
  both = untrained()
  both.save(tmp_path / "both")
  dataclasses.replace(both, live_params=both.params).save(tmp_path / "average")
  sizes = [(tmp_path / name / sharing.WEIGHTS).stat().st_size for name in ("both", "average")]
  assert sizes[1] < 0.55 * sizes[0]
  loaded = ij.load(tmp_path / "average")
  assert loaded.live_params is loaded.params
  assert_same_arrays(loaded.params, both.params)
  loaded.save(tmp_path / "again")
  assert (tmp_path / "again" / sharing.WEIGHTS).stat().st_size == sizes[1]


def test_the_card_says_what_the_model_is(finished, saved, tmp_path):
  card = (saved / "README.md").read_text()
  summary = storage.read_json(finished.folder / "summary.json")
  nats = f"{-summary['nce_nats']:.1f}"[:3]
  for words in ("p(x | fc3)", "digits", "8 x 8 x 1, 17 levels", nats, "21 test images", " hours"):
    assert words in card, words
  assert "interval" not in card
  assert "[95% " in card
  commit = storage.read_json(saved / "config.json")["commit"]
  assert commit in card
  assert len(commit) == 40 or not (pathlib.Path(ij.__file__).parents[1] / ".git").exists()
  assert ij.load(saved).num_params == finished.model.num_params
  assert f"{finished.model.num_params:,} parameters" in card
  untrained().save(tmp_path, about="Of nobody's images.")
  card = (tmp_path / "README.md").read_text()
  for words in (
    "# p(x)\n",
    "\n\nOf nobody's images.\n\n| | |\n",
    "pixelcnn++, filters 2, blocks 1, scales 1; ",
    "| nats | not said |",
    f"4 steps of {Recipe().batch_size} images, 2 hours",
  ):
    assert words in card, words


def test_what_is_no_saved_model_is_a_sentence(finished, saved, tmp_path):
  def damaged(**changes):
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder

  made = tmp_path / "made"

  class Payload:
    def __reduce__(self):
      return os.mkdir, (str(made),)

  stranger = damaged()
  (stranger / sharing.WEIGHTS).write_bytes(pickle.dumps(Payload()))
  with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged; fetch"):
    ij.load(stranger)
  assert not made.exists()
  network = storage.read_json(saved / "config.json")["network"]
  for changes, words in (
    ({"network": network | {"num_filters": 5}}, "holds another network than its config"),
    ({"network": network | {"depth": 5}}, "damaged or of a newer version .*depth"),
    ({"channel": None}, "damaged or of a newer version"),
    ({"network": network | {"context": "both"}}, "context='both' is not one of"),
  ):
    with pytest.raises(UserError, match=words):
      ij.load(damaged(**changes))
  (tmp_path / "file").write_text("")
  for folder, words in (
    (finished.folder, "is the folder of a run; choose another one"),
    (tmp_path / "file" / "below", "cannot be saved in"),
  ):
    with pytest.raises(UserError, match=words):
      finished.model.save(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A hub that is a local folder, with the real functions' arguments."""
  hub = pytest.importorskip(
    "huggingface_hub", reason="huggingface_hub is optional: pip install 'inversion_jax[hub]'"
  )
  shelf = tmp_path / "shelf"

  def put(*args, **kwargs):
    given = inspect.signature(real["upload_folder"]).bind(*args, **kwargs).arguments
    assert given["repo_id"] in shelf_of
    for name in given["allow_patterns"]:
      if (pathlib.Path(given["folder_path"]) / name).exists():
        shutil.copy(pathlib.Path(given["folder_path"]) / name, shelf_of[given["repo_id"]])
    return f"https://hub/{given['repo_id']}"

  def make(*args, **kwargs):
    given = inspect.signature(real["create_repo"]).bind(*args, **kwargs).arguments
    shelf_of[given["repo_id"]] = shelf / given["repo_id"]
    shelf_of[given["repo_id"]].mkdir(parents=True, exist_ok=given["exist_ok"])

  def get(*args, **kwargs):
    given = inspect.signature(real["snapshot_download"]).bind(*args, **kwargs).arguments
    if given["repo_id"] not in shelf_of:
      raise FileNotFoundError("no such repository")
    return str(shelf_of[given["repo_id"]])

  shelf_of, real = {}, {}
  for name, function in (("upload_folder", put), ("create_repo", make), ("snapshot_download", get)):
    real[name] = getattr(hub, name)
    monkeypatch.setattr(hub, name, function)
  return shelf


def test_a_model_goes_to_a_hub_and_comes_back(hub, finished, saved):
  (saved / "notes.txt").write_text("mine alone")
  assert ij.push(saved, "user/mine").endswith("user/mine")
  (saved / "notes.txt").unlink()
  assert not (hub / "user" / "mine" / "notes.txt").exists()
  pulled = ij.pull("user/mine", revision="main")
  assert_same_arrays(pulled.params, finished.model.params)
  with pytest.raises(UserError, match=r"does not give user/none \(no such repository\)"):
    ij.pull("user/none")
  with pytest.raises(UserError, match=r"holds no saved model; make one with model\.save"):
    ij.push(finished.folder, "user/mine")
