"""The middle floor: arrays in, a model, nats and images out; with a folder an ordinary run."""

import dataclasses
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from run_examples import edited, get_config, killed_at_step, run_stages

import inversion_jax as ij
from inversion_jax import information, report
from inversion_jax.features.pairs import Pairs
from inversion_jax.fitting import training
from inversion_jax.machine import notes, storage
from inversion_jax.machine.errors import UserError
from inversion_jax.runs import Run


def stored(run, split) -> Pairs:
  """The pairs of a run's split as a stranger would have them: two arrays."""
  of = run.pairs(split)
  return ij.pairs(of.images, of.h, num_levels=of.num_levels, labels=of.labels)


def fitted(run, train, validation, **settings):
  return ij.fit(
    train,
    validation=validation,
    network=run.network(),
    recipe=run.recipe("inverter"),
    quiet=True,
    **settings,
  )


@pytest.fixture(scope="module")
def mine(finished, tmp_path_factory):
  """The layer of a run, fitted from stored arrays in a folder."""
  folder = tmp_path_factory.mktemp("mine") / "mine"
  parts = [stored(finished, split) for split in ("train", "validation")]
  return fitted(finished, *parts, folder=folder)


@pytest.fixture(scope="module")
def prior(finished, mine):
  parts = [stored(finished, split).without_h() for split in ("train", "validation")]
  return fitted(finished, *parts, folder=mine.folder.parent / "prior")


def nats_of(run):
  return storage.read_npz(run.folder / "nats.npz")["nats"]


def test_stored_arrays_give_the_nats_of_the_command_line(finished, mine):
  result = mine.evaluate(stored(finished, "test"))
  np.testing.assert_allclose(result.nats, nats_of(finished), atol=1e-3)
  np.testing.assert_allclose(nats_of(mine), result.nats)
  assert result.nce.mean == pytest.approx(-nats_of(finished).mean(), abs=1e-3)
  assert result.nce.standard_error == pytest.approx(result.nats.std(ddof=1) / np.sqrt(21))


def test_models_whose_network_is_equal_share_what_the_first_has_traced(finished, caplog):
  network = dataclasses.replace(finished.network(), num_filters=6, reader_even=True)
  images, h = (getattr(stored(finished, "train"), name) for name in ("images", "h"))

  def traced(h, **of_reader):
    caplog.clear()
    with jax.log_compiles():
      model = ij.fit(
        ij.pairs(images, h, num_levels=17),
        network=dataclasses.replace(network, **of_reader),
        recipe=finished.recipe("inverter"),
        quiet=True,
      )
      model.sample(h[:2])
    return set(re.findall(r"Finished tracing (?:\+ transforming )?(\w+) for", caplog.text))

  of_network = {"init_network", "gradient_of_second", "score_contexts", "draw_batch"}
  assert of_network | {"descend_part", "first_of_part"} <= traced(h)
  again = traced(h[:, :-1], reader_units=12)
  assert not of_network & again
  assert "first_of_part" in again, "it reads in its own way"


def test_a_function_gives_the_nats_of_the_command_line(finished):
  encode = finished.features.encode_images
  parts = {
    split: ij.pairs(finished.images(split).images, encode, num_levels=17, name="fc3")
    for split in ("train", "validation", "test")
  }
  model = fitted(finished, parts["train"], parts["validation"])
  nats = model.evaluate(parts["test"]).nats
  np.testing.assert_allclose(nats, nats_of(finished), atol=1e-3)


def test_a_file_from_the_command_line_gives_the_same_nats(finished, tmp_path):
  parts = [stored(finished, split) for split in ("train", "validation", "test")]
  arrays = {"x": [of.images for of in parts], "h": [of.h for of in parts]}
  path = tmp_path / "mine.npz"
  np.savez(path, **{name: np.concatenate(values) for name, values in arrays.items()}, num_levels=17)
  inverter = {
    name: value
    for name, value in finished.config.inverter.to_dict().items()
    if name not in ("network", "likelihood")
  }
  config = edited(
    get_config("features"),
    data__name=str(path),
    data__num_test=21,
    data__num_validation=10,
    data__split_seed=-1,
    evaluate__batch_size=finished.config.evaluate.batch_size,
    decoder__num_steps=2,
    decoder__batch_size=16,
    sample__num_images=1,
    sample__num_samples=1,
  )
  config.inverter.update(inverter)
  config.inverter.network.update(finished.config.inverter.network)
  config.decoder.network.update(finished.config.decoder.network)
  run = run_stages(config, tmp_path / "run")
  np.testing.assert_allclose(nats_of(run), nats_of(finished), atol=1e-3)
  assert not (run.folder / "classifier").exists()
  summary = storage.read_json(run.folder / "summary.json")
  assert (summary["dataset"], summary["layer"]) == ("mine", "h")
  assert "mine" in (run.folder / "report.html").read_text()
  missing = Run(edited(config, data__name="nothing.npz"), tmp_path / "missing")
  with pytest.raises(UserError, match=r"data\.name=nothing\.npz is not a file; give an \.npz"):
    missing.pairs("train")
  for stage, words in (("neighbours", "stored features have none"), ("gan", "leave it out")):
    with pytest.raises(UserError, match=words):
      run_stages(config, tmp_path / "run", (stage,))


def test_a_folder_changes_nothing_and_a_killed_fit_goes_on(finished, mine, tmp_path):
  parts = [stored(finished, split) for split in ("train", "validation")]
  in_memory = fitted(finished, *parts)
  with killed_at_step(4):
    fitted(finished, *parts, folder=tmp_path / "run")
  resumed = fitted(finished, *parts, folder=tmp_path / "run")
  for model in (in_memory, resumed):
    jax.tree.map(np.testing.assert_array_equal, model.params, mine.params)
  assert in_memory.folder is None
  with pytest.raises(UserError, match=r"belongs to another fit .other seed.; choose another"):
    fitted(finished, *parts, folder=tmp_path / "run", seed=1)


def test_a_finished_fit_is_read_and_not_trained(finished, mine, monkeypatch):
  monkeypatch.setattr(training, "fit", None)
  parts = [stored(finished, split) for split in ("train", "validation")]
  again = fitted(finished, *parts, folder=mine.folder)
  jax.tree.map(np.testing.assert_array_equal, again.params, mine.params)
  with pytest.raises(UserError, match="are among the training pairs"):
    again.evaluate(parts[0])


def test_a_loaded_model_is_the_one_that_was_fitted(finished, mine, prior):
  test = stored(finished, "test")
  for model, of in ((mine, test), (prior, test.without_h())):
    loaded = ij.load(model.folder)
    np.testing.assert_array_equal(loaded.nats(of), model.nats(of))
    assert repr(loaded) == repr(model)
  np.testing.assert_array_equal(ij.load(finished.folder).nats(test), finished.model.nats(test))
  with pytest.raises(UserError, match=r"is not the folder of a run: it has no config\.json"):
    ij.load(mine.folder.parent)


def test_a_run_of_the_version_before_is_read_reported_and_continued(finished, tmp_path):
  folder = tmp_path / "fc3"
  shutil.copytree(finished.folder, folder)
  old = {"step", "best_step", "stopped_early", "seconds"}
  note = {name: value for name, value in notes.read(folder)["inverter"].items() if name in old}
  notes.write(folder, "inverter", note)
  config = storage.read_json(folder / "config.json")
  del config["data"]["split_seed"]
  storage.write_json(folder / "config.json", config)
  test = stored(finished, "test")
  np.testing.assert_array_equal(ij.load(folder).nats(test), finished.model.nats(test))
  report.write_run_report(folder)
  run = Run(edited(finished.config, inverter__num_steps=8), folder)
  run.begin()
  run_stages(run.config, folder, ("inverter", "evaluate"))
  assert run.finished("inverter")["step"] == 8


def test_samples_are_levels_of_the_shape_that_was_asked_for(finished, mine, prior):
  test = stored(finished, "test")
  images = mine.sample(test.h[:2], num=3)
  assert (images.shape, images.dtype) == ((2, 3, 8, 8, 1), np.uint8)
  assert images.max() <= 16
  np.testing.assert_array_equal(images, mine.sample(test.h[:2], num=3, sampler="ancestral"))
  assert prior.sample(num=4).shape == (4, 8, 8, 1)
  for wrong, words in (
    (lambda: mine.sample(), "needs h of shape"),
    (lambda: prior.sample(test.h), "needs no h"),
    (lambda: mine.sample(test.h[:, :3]), r"an h of shape \(64,\) and is given an h of shape \(3,"),
    (lambda: mine.sample(test.h, num=0), "num=0 must be a positive integer"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()


def test_a_result_prints_as_a_sentence_and_shows_itself(finished, mine):
  result = mine.evaluate(stored(finished, "test"))
  low, high = result.nce.interval()
  text = str(result).replace("\N{MINUS SIGN}", "-")
  assert text.startswith(f"NCE {result.nce.mean:.1f}"[:9])
  assert "nats per image [95% " in text
  assert "21 images" in text
  assert low < result.nce.mean < high
  html = result._repr_html_()
  assert str(result) in html
  assert "data:image/png;base64," in html
  assert result.figure().axes


def test_models_are_compared_by_name(finished, mine, prior, tmp_path):
  test = stored(finished, "test")
  models = {"mine": mine, "again": mine, "p(x)": prior}
  comparison = ij.compare(models, test, output=tmp_path / "comparison")
  rows = storage.read_json(tmp_path / "comparison" / "comparison.json")
  assert [row["layer"] for row in rows] == ["mine", "again", "none"]
  assert rows[0]["nce_nats"] == pytest.approx(comparison.results["mine"].nce.mean)
  gain = information.paired_difference(prior.nats(test.without_h()), mine.nats(test))
  assert rows[0]["information_estimate_nats"] == pytest.approx(gain.mean)
  page = (tmp_path / "comparison" / "report.html").read_text()
  assert "mine" in page
  assert "none (p(x))" in page
  assert "mine minus again: 0.00" in str(comparison)
  assert "mine minus p(x): " in comparison._repr_html_()
  assert str(comparison).count("No verdicts: 21 independent test images are too few") == 1
  assert "mine: codelength of the first pass 181.3" in str(comparison)
  assert "less than p(x)" in comparison._repr_html_()
  assert "How easily each layer is read" in page
  files = sorted(path.name for path in mine.folder.iterdir())
  assert "comparison.json" not in files
  again = ij.compare({"mine": mine}, {"mine": test})
  np.testing.assert_array_equal(again.results["mine"].nats, comparison.results["mine"].nats)
  for wrong, words in (
    (lambda: ij.compare({}, test), "takes models by name"),
    (lambda: ij.compare({"mine": mine}, {"other": test}), "no pairs for the model 'mine'"),
    (lambda: ij.compare({"mine": mine}, test, output=mine.folder), "is the folder of a run"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()


def test_pairs_that_were_trained_on_are_not_scored_as_new(finished, mine):
  with pytest.raises(UserError, match="of the 64 test pairs are among the training pairs"):
    mine.evaluate(stored(finished, "train"))
  test = stored(finished, "test")
  bright = dataclasses.replace(test, images=test.images.copy(), num_levels=256)
  bright.images[0, 0, 0, 0] = 200
  with pytest.raises(UserError, match="This model knows 17 levels, but an image has level 200"):
    mine.evaluate(bright)


def test_without_settings_a_fit_suits_the_images(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 4, (80, 4, 4, 1)).astype(np.uint8)
  model = ij.fit(ij.pairs(images, images.reshape(80, -1)), num_steps=2, quiet=True)
  assert (model.num_levels, model.inverter.num_scales, model.recipe.batch_size) == (4, 2, 64)
  few = ij.fit(ij.pairs(images[:40]), num_steps=1, quiet=True)
  assert few.recipe.batch_size == 18


def test_patches_of_large_images_of_four_colours_are_fitted_scored_and_drawn():
  images = np.random.default_rng(0).integers(0, 256, (24, 12, 10, 4)).astype(np.uint8)
  maps = images[:, ::2, ::2].astype(np.float32)
  train, test = ij.pairs(images, maps, patch=(6, 5)).split(test=8, seed=None)
  network = ij.Network(num_filters=2, num_blocks=1, num_scales=1, reader_filters=2)
  model = ij.fit(train, network=network, num_steps=1, quiet=True)
  result = model.evaluate(test)
  assert len(result.nats) == 8
  # Two images, four patches each: two pieces of evidence.
  assert result.nce.num == 2
  assert model.h_shape == (3, 3, 4)
  assert model.sample(test.h[:2], num=2).shape == (2, 2, 6, 5, 4)


def test_orbax_is_imported_for_a_folder_alone(finished):
  source = pathlib.Path(ij.__file__).parent
  importing = [
    path.relative_to(source).as_posix()
    for path in source.rglob("*.py")
    if "import orbax" in path.read_text() or "from orbax" in path.read_text()
  ]
  assert importing == ["machine/checkpoints.py"]
