"""A hundred mistakes in what goes in: each is told in one sentence before anything is begun.

Beside these stand those in arrays (`features/test_pairs.py`) and in files of data sets
(`data/test_archives.py`).
"""

import collections
import resource
import sys
import time

import numpy as np
import pytest
from absl.testing import flagsaver
from run_examples import ROOT, command

from inversion_jax import main
from inversion_jax.data import loading
from inversion_jax.stages.records import Stage

# Of a processor.
SECONDS = 10.0
SMOKE = f"--config={ROOT}/configs/digits_fc3.py:smoke"
MINE = f"--config={ROOT}/configs/features.py:smoke"
PRIOR = f"--config={ROOT}/configs/digits_prior.py:smoke"
LAYERS = f"--config={ROOT}/configs/digits.py:smoke"


def field(name, value, words, *more, config=SMOKE):
  """A value of a field, the words of its sentence, and further arguments."""
  return (config, f"--config.{name}={value}", *more), words


def stage(name, words, *more, config=SMOKE):
  """Stages that are asked for."""
  return (config, f"--stages={name}", *more), words


def script(text, words):
  """A file of configurations with this text, under {at}."""
  return ("--config={at}/mine.py",), words, {"mine.py": text}


def files(arguments, words, **contents):
  """Files that lie under {at}: text, bytes, arrays, or None for a folder."""
  return arguments, words, {name.replace("__", "."): content for name, content in contents.items()}


BEGIN = "from inversion_jax import config as config_lib\n\n\ndef get_config(variant=''):\n"
X = np.arange(60 * 64).reshape(60, 8, 8, 1).astype(np.uint8) % 17
H = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)

COMMAND_LINE = {
  "no configuration": ((), "--config is missing; give one"),
  "no such file": (("--config=configs/nothing.py",), "nothing.py does not exist"),
  "no such name": (("--config=digts:smoke",), "by its path or its name, such as digits, digits_"),
  "a name like none": (("--config=zzz",), "zzz does not exist; give one of the files in configs/"),
  "a name after a space": (("--config", "svhn_conv"), "such as svhn_conv"),
  "a folder": ((f"--config={ROOT}/configs",), "is a folder; give one of the files"),
  "a folder, and a field": ((f"--config={ROOT}/configs", "--config.seed=1"), "is a folder"),
  "an empty name": (("--config=",), "--config"),
  "no such variant": ((f"--config={ROOT}/configs/digits.py:tiny",), "has no variant 'tiny'"),
  "no such field": field("inverter.num_step", 3, "num_step"),
  "no such section": field("inverse.num_steps", 3, "inverse"),
  "a field of a number": field("inverter.num_steps.x", 3, "num_steps.x"),
  "a word for a number": field("inverter.num_steps", "many", "many"),
  "half a step": field("inverter.num_steps", "2.5", "2.5"),
  "a number for a section": field("inverter", 3, "is not a dict"),
  "no such flag": ((SMOKE, "--wordkir=x"), "wordkir"),
  "a word that is no flag": ((SMOKE, "classifier"), "'classifier' is not a flag"),
  "a field before the file": (("--config.seed=1", SMOKE), "--config"),
  "a flag of flags that is not there": ((SMOKE, "--flagfile=nothing"), "nothing"),
  "no cluster": ((SMOKE, "--distributed=perhaps"), "distributed"),
  "no such stage": stage("train", "--stages knows classifier"),
  "no stages": stage("", "--stages knows"),
  "a stage and a space": stage("classifier inverter", "not 'classifier inverter'"),
}
CONFIG_FILES = {
  "a syntax error": script("def get_config(:\n", "line 1: SyntaxError"),
  "a missing import": script("import nothing_of_the_kind\n", "line 1: ModuleNotFoundError"),
  "a name that is not there": script(BEGIN + "  return config\n", "line 5: NameError"),
  "a typo in a field": script(
    BEGIN + "  config = config_lib.preset('digits', 'fc3')\n  config.inverter.nmu_steps = 5\n",
    "nmu_steps",
  ),
  "a word in place of a number": script(
    BEGIN + "  config = config_lib.preset('digits', 'fc3')\n  config.inverter.num_steps = 'five'\n",
    "line 6: TypeError",
  ),
  "a new field": script(
    BEGIN + "  config = config_lib.default()\n  config.inverter.nmu_steps = 5\n  return config\n",
    "unknown field inverter.nmu_steps",
  ),
  "a field that was taken away": script(
    BEGIN + "  config = config_lib.default()\n  del config.seed\n  return config\n",
    "lacks the field seed",
  ),
  "nothing in place of a number": script(
    BEGIN
    + "  config = config_lib.default()\n  config.inverter.num_steps = None\n  return config\n",
    "inverter.num_steps=None must be a whole number",
  ),
  "nothing returned": script(BEGIN + "  pass\n", "returns NoneType"),
  "a dict returned": script(BEGIN + "  return {'seed': 1}\n", "returns dict"),
  "no function": script("config = 1\n", "has no function get_config"),
  "a division by zero": script(BEGIN + "  return 1 / 0\n", "line 5: ZeroDivisionError"),
  "a file of the program": script(BEGIN + "  return open('nothing').read()\n", "nothing"),
  "an image": files(("--config={at}/mine.png",), "mine.png", mine__png=b"\x89PNG\r\n\x1a\n\x00"),
}
FIELDS = {
  "no such layer": field("representation.layer", "conv7", "representation.layer='conv7' is not"),
  "a layer twice": field("layers", "('conv1','conv1')", "has conv1 twice", config=LAYERS),
  "no layer among layers": field("layers", "('conv1','')", "layers='' is not", config=LAYERS),
  "a number among layers": field("layers", "(1,)", "layers=1 must be a word", config=LAYERS),
  "a negative seed": field("seed", -1, "seed=-1 must be from 0"),
  "a seed beyond all": field("seed", "99999999999999999999", "must be from 0 to 4294967295"),
  "no such type": field("dtype", "int8", "dtype='int8' is not one of"),
  "no such kind": field("classifier.network.kind", "deep", "kind='deep' is not one of"),
  "one filter": field("classifier.network.num_filters", "(8,)", "must have 2 values"),
  "filters as words": field("classifier.network.num_filters", "('a','b')", "must be a whole"),
  "half filters": field("classifier.network.num_filters", "(1.5,2)", "must be a whole number"),
  "no filters": field("classifier.network.num_filters", "(0,8)", "must be above zero"),
  "one pooling": field("classifier.network.pool_sizes", "(1,)", "must have 2 values"),
  "pooling to nothing": field("classifier.network.pool_sizes", "(8,8)", "leave nothing of 1x1"),
  "no such padding": field("classifier.network.padding", "FULL", "padding='FULL' is not one of"),
  "kernels above the image": field("classifier.network.kernel_size", 9, "nothing of 8x8 in conv1"),
  "kernels that eat the image": field(
    "classifier.network.kernel_size",
    6,
    "nothing of 3x3 in conv2",
    "--config.classifier.network.padding=VALID",
  ),
  "all dropped": field("classifier.network.dropout_rate", 1.0, "at least 0 and below 1"),
  "dense units beyond memory": field(
    "classifier.network.num_units", 10**12, "Training the classifier needs"
  ),
  "an infinite rate": field("inverter.learning_rate", "inf", "learning_rate=inf must be finite"),
  "a rate that is no number": field("classifier.learning_rate", "nan", "must be finite"),
  "no rate": field("gan.learning_rate", 0.0, "gan.learning_rate=0.0 must be above zero"),
  "steps beyond 32 bits": field("inverter.num_steps", 10**10, "must be from 1 to 2147483647"),
  "no such decay": field("decoder.decay", "fast", "decoder.decay='fast' is not one of"),
  "no such algorithm": field("inverter.algorithm", "sgd", "algorithm='sgd' is not one of"),
  "an average of one": field("inverter.ema_decay", 1.0, "inverter.ema_decay=1.0 must be"),
  "microbatches that do not divide": field("inverter.num_microbatches", 3, "does not divide"),
  "a batch above the set": field("inverter.batch_size", 300, "exceeds the 256 training images"),
  "a decoder's batch above it": field("decoder.batch_size", 300, "decoder.batch_size=300 exceeds"),
  "a classifier's batch above it": field("classifier.batch_size", 300, "batch_size=300 exceeds"),
  "a batch above the classifier's part": field(
    "classifier.num_train", 15, "exceeds the 15 training images"
  ),
  "filters beyond memory": field("inverter.network.num_filters", 10**7, "Training the inverter"),
  "halved beyond a pixel": field("inverter.network.num_scales", 9, "choose at most 4"),
  "a decoder halved beyond it": field(
    "decoder.network.num_scales", 9, "decoder.network.num_scales"
  ),
  "no such reader": field("inverter.network.context", "both", "context='both' is not one of"),
  "no such likelihood": field("inverter.likelihood.name", "gauss", "likelihood.name='gauss'"),
  "scales that are no number": field("inverter.likelihood.min_log_scale", "nan", "must be finite"),
  "scales above the range": field("inverter.likelihood.min_log_scale", 1000, "from -20.0 to 0.0"),
  "a reader from no decoder like it": field(
    "inverter.start_reader_from_decoder", True, "decoder.network.residual=False must be True"
  ),
  "a step that is not kept": field("representation.step", 55, "step=55 is not kept"),
  "a step beyond the last": field(
    "representation.step", 100, "beyond", "--config.classifier.snapshot_steps=(0,100)"
  ),
  "no such control": field("representation.control", "noise", "control='noise' is not one of"),
  "two channels": field(
    "representation.sigma", 1.0, "are two channels", "--config.representation.bits=2"
  ),
  "too many bits": field("representation.bits", 17, "representation.bits=17 must be from 0 to 16"),
  "no test image but one": field("data.num_test", 1, "an interval needs two"),
  "fewer than no images": field("data.num_validation", -1, "must not be below zero"),
  "no such set": field("data.name", "imagenet", "data.name='imagenet' is not one of"),
  "all rows given": field("sample.num_given_rows", 8, "leaves nothing to draw"),
  "no such sampler": field("sample.sampler", "fast", "sampler='fast' is not one of"),
  "samples beyond the disk": field("sample.num_samples", 10**12, "The run will write about"),
  "no samples": field("sample.num_samples", 0, "sample.num_samples=0 must be above zero"),
  "fewer than no maps": field("evaluate.num_maps", -1, "must not be below zero"),
}
STAGES = {
  "a prior's neighbours": stage("neighbours", "inverts a layer as it is", config=PRIOR),
  "a prior's GAN": stage("gan", "for a run that inverts a layer", config=PRIOR),
  "a prior's checks": stage("checks", "for a run that inverts a layer", config=PRIOR),
  "a prior's brackets": stage("brackets", "inverts a layer as it is", config=PRIOR),
  "an inverter before its classifier": stage("inverter,classifier", "inverter needs classifier"),
  "nothing to evaluate": stage("classifier,evaluate", "evaluate needs inverter"),
  "nothing to sample": stage("sample", "sample needs inverter"),
  "nothing to report": stage("report", "report needs evaluate"),
  "nothing to check": stage("classifier,inverter,checks", "checks needs evaluate"),
  "a reader before its decoder": stage(
    "classifier,inverter,decoder",
    "inverter needs decoder",
    "--config.inverter.start_reader_from_decoder=True",
    "--config.decoder.network.residual=True",
    "--config.decoder.network.num_units=16",
  ),
  "a GAN of one sample": stage(
    "classifier,inverter,sample,gan", "has no diversity", "--config.sample.num_samples=1"
  ),
  "a GAN of one image": stage(
    "classifier,inverter,sample,gan", "an interval needs two", "--config.sample.num_images=1"
  ),
  "a GAN without weights": stage(
    "classifier,inverter,sample,gan", "at least one", "--config.gan.entropy_weights=()"
  ),
  "a GAN's weights as words": stage(
    "gan", "gan.entropy_weights='a' must be a number", "--config.gan.entropy_weights=('a',)"
  ),
  "a GAN halved beyond a pixel": stage(
    "classifier,inverter,sample,gan", "choose at most 3", "--config.gan.network.num_scales=9"
  ),
  "neighbours of one image": stage(
    "classifier,inverter,neighbours", "needs two", "--config.neighbours.num_images=1"
  ),
  "brackets through nothing": stage(
    "classifier,brackets", "both empty", "--config.brackets.sigmas=()", "--config.brackets.bits=()"
  ),
  "brackets of 17 bits": stage("brackets", "bits=17 is not", "--config.brackets.bits=(17,)"),
}
PLACES = {
  "a data folder that is a file": files(
    (SMOKE, "--config.data.dir={at}/file"), "file is a file; set config.data.dir", file=b""
  ),
  "a prepared set that is empty": files(
    (SMOKE, "--config.data.dir={at}/data"),
    "cannot be read",
    **{"data/digits/1__0__0/dataset_info__json": b""},
  ),
  "a workdir that is a file": files((SMOKE, "--workdir={at}/file"), "is a file", file=b""),
  "a workdir in a file": files((SMOKE, "--workdir={at}/file/run"), "is a file", file=b""),
  "a workdir where none can be": ((SMOKE, "--workdir=/proc/run"), "choose another --workdir"),
  "a start that is not there": field(
    "inverter.start_from", "nothing", "is not the folder of a run"
  ),
  "a start that is a file": files(
    (SMOKE, "--config.inverter.start_from={at}/file"), "is not the folder of a run", file=b""
  ),
  "a configuration that is a list": files(
    (SMOKE,), "config.json is damaged (it holds no fields)", **{"run/config__json": b"[]"}
  ),
  "a configuration that was cut": files(
    (SMOKE,), "config.json is damaged", **{"run/config__json": b'{"seed'}
  ),
  "a file of pairs that is not there": field(
    "data.name", "nothing.npz", "nothing.npz is not a file", config=MINE
  ),
  "a layer of a file of pairs": field("data.name", "mine.npz", "layer='fc3' is not one of '', 'h'"),
  "a file of pairs without x": files(
    (MINE, "--config.data.name={at}/mine.npz"), "it must hold x", mine__npz={"h": H}
  ),
  "a file of floats": files(
    (MINE, "--config.data.name={at}/mine.npz"), "must be uint8", mine__npz={"x": X / 16.0, "h": H}
  ),
  "a file of objects": files(
    (MINE, "--config.data.name={at}/mine.npz"),
    "holds Python objects",
    mine__npz={"x": X, "h": H.astype(object)},
  ),
  "a file that is no archive": files(
    (MINE, "--config.data.name={at}/mine.npz"), "is not a NumPy file", mine__npz=b"x,h\n1,2\n"
  ),
  "a file of too few pairs": files(
    (MINE, "--config.data.name={at}/mine.npz"),
    "cannot be held out",
    mine__npz={"x": X[:9], "h": H[:9]},
  ),
}
GROUPS = (COMMAND_LINE, CONFIG_FILES, FIELDS, STAGES, PLACES)
CASES = collections.ChainMap(*GROUPS)


def lay(folder, contents):
  """Writes the files of a case."""
  for name, content in contents.items():
    path = folder / name.replace("__", ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
      np.savez(path, **content)
    else:
      path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def ready(data_dir, tmp_path, monkeypatch):
  """No stage begins, and nothing is looked for in the home of whoever runs the tests."""
  loading.load("digits", data_dir=str(data_dir))  # Also what its libraries do with flags.
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.setattr(Stage, "__call__", lambda *_: pytest.fail("a stage was begun"))


def run(arguments, monkeypatch):
  """The program in this process, as a shell would start it."""
  argv = ["main", *arguments]
  monkeypatch.setattr(sys, "argv", argv)
  monkeypatch.setattr(sys, "dont_write_bytecode", True)
  # A process reads one file of configurations, and ml_collections counts on it.
  monkeypatch.delitem(sys.modules, "config_config", raising=False)
  with flagsaver.flagsaver():
    main._guarded(main._parse_flags(argv))


def test_there_are_a_hundred():
  assert len(CASES) == sum(map(len, GROUPS)) >= 100, "each has a name of its own"


# How ml_collections loads a file; a shell does not show it.
@pytest.mark.filterwarnings("ignore:the load_module.. method:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("ready")
def test_a_wrong_input_is_one_sentence_before_anything_is_begun(
  name, tmp_path, monkeypatch, capsys
):
  arguments, words, *contents = CASES[name]
  lay(tmp_path, *contents or ({},))
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
  arguments = [
    f"--workdir={tmp_path}/run",
    *(word.replace("{at}", str(tmp_path)) for word in arguments),
  ]
  start = time.process_time()
  with pytest.raises(SystemExit) as stop:
    run(arguments, monkeypatch)
  assert time.process_time() - start < SECONDS
  assert stop.value.code == 2
  sentence = capsys.readouterr().err
  assert sentence.startswith("inversion_jax: ")
  assert words in sentence
  assert len(sentence.splitlines()) == 1, sentence
  assert "Traceback" not in sentence
  assert "\\n" not in sentence, "the repr of a text"
  assert "\\'" not in sentence
  # The folder has not been claimed for a configuration that cannot be.
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def processor_seconds_of_children():
  """Not those of a clock, which other work on the machine delays."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def test_a_shell_sees_the_same(data_dir, tmp_path):
  arguments = (SMOKE, f"--workdir={tmp_path}/run", "--config.inverter.num_microbatches=3")
  start = processor_seconds_of_children()
  done = command(*arguments, data_dir=data_dir)
  assert processor_seconds_of_children() - start < SECONDS, "the import of JAX included"
  assert done.returncode == 2
  (sentence,) = done.stderr.splitlines()
  assert "inverter.num_microbatches=3 does not divide batch_size=16" in sentence


def test_help_is_no_mistake():
  done = command("--help")
  assert done.returncode == 0, done.stderr
  assert "--stages" in done.stdout
