"""Layers of networks of other frameworks: what they give, and what is left as it was."""

import os
import pickle
import subprocess
import sys

import flax.linen as linen
import jax
import numpy as np
import pytest
import sklearn.decomposition
from flax import nnx

import inversion_jax as ij
from inversion_jax.features import adapters
from inversion_jax.machine.errors import UserError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (10, 6, 4, 3)).astype(np.uint8)
NO_TORCH = "PyTorch is optional: pip install 'inversion_jax[torch]'"
NO_ONNX = "ONNX is optional: pip install 'inversion_jax[onnx]'"


def test_importing_the_package_imports_no_framework():
  script = """
import sys
import inversion_jax as ij
ij.features.torch, ij.features.onnx, ij.pairs, ij.validate
assert not {"torch", "onnx", "onnxruntime", "huggingface_hub"} & set(sys.modules)
assert {"torch", "flax", "nnx", "sklearn", "onnx"} < set(dir(ij.features))
"""
  subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
  with pytest.raises(AttributeError, match="no attribute 'tensorflow'"):
    _ = ij.features.tensorflow


def test_a_framework_that_is_missing_is_said_with_its_extra():
  with pytest.raises(UserError, match=r"pip install 'inversion_jax\[torch\]'"):
    adapters.framework("no_such_framework", "torch")


# Layout.


def test_maps_get_their_channels_last_and_single_cells_become_vectors():
  h = RNG.normal(size=(2, 5, 3, 4)).astype(np.float32)
  first = adapters.arranged(h, (6, 8), True, "")
  np.testing.assert_array_equal(first, h.transpose(0, 2, 3, 1))
  np.testing.assert_array_equal(adapters.arranged(h, (6, 8), False, ""), h)
  pooled = adapters.arranged(h[:, :, :1, :1], (6, 8), True, "")
  np.testing.assert_array_equal(pooled, h[:, :, 0, 0])
  assert adapters.arranged(h[:, 0, 0, 0], (6, 8), True, "").shape == (2, 1)
  with pytest.raises(UserError, match=r"'deep' gives an array of shape \(1, 2, 5, 3, 4\)"):
    adapters.arranged(h[None], (6, 8), True, "deep")


def test_tokens_become_the_map_that_the_image_has_and_nothing_is_left_out():
  tokens = RNG.normal(size=(2, 12, 5)).astype(np.float32)
  np.testing.assert_array_equal(
    adapters.arranged(tokens, (18, 24), True, ""), tokens.reshape(2, 3, 4, 5)
  )
  classed = np.concatenate([tokens[:, :1] + 9.0, tokens], axis=1)
  made = adapters.arranged(classed, (18, 24), True, "")
  assert made.shape == (2, 3, 4, 10)
  np.testing.assert_array_equal(made[..., :5], tokens.reshape(2, 3, 4, 5))
  np.testing.assert_array_equal(made[:, 1, 2, 5:], classed[:, 0])
  # No grid of a square image: one vector.
  assert adapters.arranged(tokens[:, :8], (30, 7), True, "").shape == (2, 40)


# PyTorch.


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch", reason=NO_TORCH)


@pytest.fixture
def network(torch):
  """In training mode, with a ReLU in place after each layer."""
  torch.manual_seed(0)
  return torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3),
    torch.nn.ReLU(inplace=True),
    torch.nn.BatchNorm2d(4),
    torch.nn.Dropout(0.5),
    torch.nn.Flatten(),
    torch.nn.Linear(4 * 4 * 2, 5),
    torch.nn.ReLU(inplace=True),
  )


def by_hand(torch, module, images=X):
  """The first convolution in evaluation mode."""
  with torch.no_grad():
    given = torch.tensor(images.transpose(0, 3, 1, 2).copy()).float() / 255
    return module[0](given).numpy().transpose(0, 2, 3, 1)


def test_a_layer_of_pytorch_is_copied_before_the_next_one_changes_it(torch, network):
  h = ij.features.torch(network, "0")(X)
  assert (h.shape, h.dtype) == ((10, 4, 2, 4), np.float32)
  assert (h < 0).any()
  np.testing.assert_allclose(h, by_hand(torch, network), atol=1e-6)


def test_a_module_of_pytorch_is_evaluated_and_left_in_its_modes(torch, network):
  network[2].eval()
  modes = [part.training for part in network.modules()]
  mean = network[2].running_mean.clone()
  layer = ij.features.torch(network, "5", batch_size=4)
  np.testing.assert_allclose(layer(X), layer(X[::-1])[::-1], atol=1e-6)
  assert [part.training for part in network.modules()] == modes
  assert torch.equal(network[2].running_mean, mean)
  assert not any(part._forward_hooks for part in network.modules())
  assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_transform_gets_the_levels_with_channels_first(torch, network):
  seen = []

  def transform(levels):
    seen.append((tuple(levels.shape), levels.dtype))
    return levels.float() / 255

  h = ij.features.torch(network, "0", transform=transform, batch_size=8)(X)
  assert seen == [((8, 3, 6, 4), torch.uint8), ((2, 3, 6, 4), torch.uint8)]
  np.testing.assert_allclose(h, by_hand(torch, network), atol=1e-6)


class Shared:
  """Modules whose layers are hard to name."""

  @staticmethod
  def make(torch):
    class Block(torch.nn.Module):
      def __init__(self):
        super().__init__()
        self.relu, self.unused = torch.nn.ReLU(), torch.nn.ReLU()
        self.lstm = torch.nn.LSTM(12, 5, batch_first=True)

      def forward(self, x):
        states, _ = self.lstm(self.relu(self.relu(x)).flatten(2).transpose(1, 2)[:, :, [0] * 12])
        return {"states": states}

    return Block()


def test_mistakes_with_pytorch_are_sentences(torch, network):
  shared = Shared.make(torch)
  for wrong, words in (
    (lambda: ij.features.torch(lambda x: x, "0"), "takes a torch.nn.Module, not function"),
    (lambda: ij.features.torch(network, "conv1"), "no layer 'conv1'; there are"),
    (lambda: ij.features.torch(network, "0")(X[..., :1]), "does not take these images"),
    (lambda: ij.features.torch(shared, "relu")(X), "'relu' runs 2 times in a pass"),
    (lambda: ij.features.torch(shared, "unused")(X), "'unused' runs 0 times in a pass"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()
  # Of a tuple the first; one sequence of 24 tokens of a 6x4 image is its own grid.
  assert ij.features.torch(shared, "lstm")(X).shape == (10, 6, 4, 5)


def test_features_go_through_pairs_and_know_other_images(torch, network):
  made = ij.pairs(X, ij.features.torch(network, "0"))
  assert (made.features.name, made.features.shape) == ("0", (4, 2, 4))
  np.testing.assert_allclose(made.h, by_hand(torch, network), atol=1e-6)
  np.testing.assert_allclose(
    made.features.encode_images(X[::-1]), by_hand(torch, network, X[::-1]), atol=1e-6
  )


def test_features_are_kept_under_the_network_and_the_images(torch, network, tmp_path, caplog):
  layer = ij.features.torch(network, "0", folder=tmp_path)
  first = ij.pairs(X, layer)
  (path,) = tmp_path.iterdir()
  np.testing.assert_array_equal(np.load(path), first.h)
  calls = []
  network[0].register_forward_hook(lambda *_: calls.append(1))
  np.testing.assert_array_equal(ij.pairs(X, layer).h, first.h)
  # The first images, to see that the transform is the same; then the checks of a function.
  assert len(calls) == 1 + 3
  ij.pairs(X[:5], layer)
  assert len(list(tmp_path.iterdir())) == 2
  dark = ij.features.torch(network, "0", folder=tmp_path, transform=lambda x: x.float() / 510)
  assert not np.allclose(ij.pairs(X, dark).h, first.h)
  with torch.no_grad():
    network[0].bias += 1.0
  np.testing.assert_allclose(ij.pairs(X, layer).h, first.h + 1.0, atol=1e-5)
  assert len(list(tmp_path.iterdir())) == 3


class Payload:
  """A pickle of it makes a folder when it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_weights_are_tensors_and_never_code(torch, network, tmp_path):
  torch.save(network.state_dict(), tmp_path / "weights.pth")
  loaded = ij.features.torch_weights(tmp_path / "weights.pth")
  assert torch.equal(loaded["0.weight"], network[0].weight)
  made = tmp_path / "made"
  torch.save({"weight": Payload(made)}, tmp_path / "payload.pth")
  (tmp_path / "payload.pkl").write_bytes(pickle.dumps(Payload(made)))
  (tmp_path / "cut.pth").write_bytes((tmp_path / "weights.pth").read_bytes()[:200])
  for name in ("payload.pth", "payload.pkl", "cut.pth"):
    with pytest.raises(UserError, match="damaged or holds more than tensors, which may be code"):
      ij.features.torch_weights(tmp_path / name)
  with pytest.raises(UserError, match="does not exist"):
    ij.features.torch_weights(tmp_path / "none.pth")
  assert not made.exists()
  # The test can fail: the payload works where it is trusted.
  pickle.loads((tmp_path / "payload.pkl").read_bytes())
  assert made.exists()


# Flax.


class Encoder(linen.Module):
  """A convolution, batch normalisation, something sown."""

  @linen.compact
  def __call__(self, x, train=False):
    x = linen.relu(linen.Conv(4, (3, 3), name="conv")(x))
    self.sow("intermediates", "energy", (x**2).mean((1, 2)))
    return linen.BatchNorm(use_running_average=not train, name="norm")(x)


class Classifier(linen.Module):
  """An encoder, and a shared layer that runs twice."""

  @linen.compact
  def __call__(self, x, train=False):
    x = Encoder(name="encoder")(x, train)
    shared = linen.Dense(4, name="shared")
    return shared(shared(x)).mean((1, 2))


def test_a_layer_of_linen_is_found_by_its_path():
  module = Classifier()
  variables = module.init(jax.random.key(0), X[:1] / 255.0)
  layer = ij.features.flax(module, variables, "encoder.conv", batch_size=4)
  conv = linen.Conv(4, (3, 3))
  params = {"params": variables["params"]["encoder"]["conv"]}
  np.testing.assert_allclose(layer(X), conv.apply(params, X / 255.0), atol=1e-5)
  sown = ij.features.flax(module, variables, "encoder.energy", transform=lambda x: x / 255.0)
  expected = np.square(np.maximum(layer(X), 0)).mean((1, 2))
  np.testing.assert_allclose(sown(X), expected, atol=1e-5)
  for name, settings, words in (
    ("encoder.conw", {}, "no layer 'encoder.conw'; there are encoder.conv"),
    ("shared", {}, "'shared' runs 2 times in a pass"),
    ("encoder.conv", {"train": True}, "evaluation mode, as by train=False"),
  ):
    with pytest.raises(UserError, match=words):
      ij.features.flax(module, variables, name, **settings)(X)


class Model(nnx.Module):
  """As `Classifier`."""

  def __init__(self, rngs):
    self.convs = nnx.List([nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Conv(4, 4, (3, 3), rngs=rngs)])
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.dropout(self.norm(self.convs[1](nnx.relu(self.convs[0](x)))))


def test_a_layer_of_nnx_is_found_by_its_path_and_the_model_left_alone():
  model = Model(nnx.Rngs(0))
  expected = np.asarray(model.convs[0](X / 255.0))
  before = jax.tree.map(np.asarray, nnx.state(model, nnx.BatchStat))
  np.testing.assert_allclose(ij.features.nnx(model, "convs.0")(X), expected, atol=1e-5)
  whole = ij.features.nnx(model, "dropout", batch_size=4)
  np.testing.assert_allclose(whole(X)[::-1], whole(X[::-1]), atol=1e-5)
  assert not model.dropout.deterministic
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.BatchStat), before)
  for wrong, words in (
    (lambda: ij.features.nnx(model, "convs.2"), "no layer 'convs.2'; there are convs"),
    (lambda: ij.features.nnx(model, "norm")(X[..., :1]), "does not take these images"),
    (lambda: ij.features.nnx(np.ones, "0"), "takes an nnx.Module, not"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()


# scikit-learn.


def test_a_transformer_gets_rows_of_levels(tmp_path):
  rows = X.reshape(10, -1)
  pca = sklearn.decomposition.PCA(3).fit(rows)
  made = ij.pairs(X, ij.features.sklearn(pca, folder=tmp_path))
  np.testing.assert_allclose(made.h, pca.transform(rows), rtol=1e-5, atol=1e-4)
  assert made.features.name == "PCA"
  (kept,) = tmp_path.iterdir()
  other = sklearn.decomposition.PCA(3).fit(rows[::2])
  ij.pairs(X, ij.features.sklearn(other, folder=tmp_path))
  assert len(list(tmp_path.iterdir())) == 2
  assert kept.name.startswith("PCA_")
  for wrong, words in (
    (lambda: ij.features.sklearn(pca, method="predict"), "PCA has no method 'predict'"),
    (lambda: ij.features.sklearn(pca)(X[:, :3]), "PCA does not take these images .*; fit it"),
    (lambda: ij.features.sklearn(sklearn.decomposition.PCA(3))(X), "is not fitted yet"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()


# ONNX.


@pytest.fixture
def model():
  """relu(convolution), then a mean, made for batches of any size."""
  onnx = pytest.importorskip("onnx", reason=NO_ONNX)
  pytest.importorskip("onnxruntime", reason=NO_ONNX)
  return onnx_model(onnx, "N")


def onnx_model(onnx, batch):
  helper, kind = onnx.helper, onnx.TensorProto.FLOAT
  kernel = np.random.default_rng(1).normal(size=(2, 3, 3, 3)).astype(np.float32)
  nodes = [
    helper.make_node("Conv", ["x", "w"], ["conv"]),
    helper.make_node("Relu", ["conv"], ["relu"]),
    helper.make_node("ReduceMean", ["relu"], ["mean"], keepdims=1),
  ]
  graph = helper.make_graph(
    nodes,
    "small",
    [helper.make_tensor_value_info("x", kind, [batch, 3, 6, 4])],
    [helper.make_tensor_value_info("mean", kind, None)],
    [onnx.numpy_helper.from_array(kernel, "w")],
  )
  return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_an_inner_tensor_of_onnx_becomes_an_output(model, tmp_path):
  onnx = pytest.importorskip("onnx", reason=NO_ONNX)
  onnx.save(model, tmp_path / "small.onnx")
  conv = ij.features.onnx(tmp_path / "small.onnx", "conv")(X)
  relu = ij.features.onnx(model, "relu")(X)
  kernel = onnx.numpy_helper.to_array(model.graph.initializer[0])
  corner = X[:, :3, :3].transpose(0, 3, 1, 2) / 255.0
  np.testing.assert_allclose(conv[:, 0, 0], np.einsum("bchw,fchw->bf", corner, kernel), atol=1e-5)
  np.testing.assert_array_equal(relu, np.maximum(conv, 0))
  assert conv.shape == (10, 4, 2, 2)
  # A batch size that the model insists on is kept to.
  np.testing.assert_allclose(ij.features.onnx(onnx_model(onnx, 4), "conv")(X), conv, atol=1e-5)
  assert [output.name for output in model.graph.output] == ["mean"]


def test_mistakes_with_onnx_are_sentences(model, tmp_path):
  (tmp_path / "text.onnx").write_text("no model")
  for wrong, words in (
    (lambda: ij.features.onnx(model, "rule"), "no tensor 'rule'; there are relu"),
    (lambda: ij.features.onnx(model, "relu")(X[:, :5]), "does not take these images"),
    (lambda: ij.features.onnx(tmp_path / "none.onnx", "relu"), "does not exist"),
    (lambda: ij.features.onnx(tmp_path / "text.onnx", "relu"), "is no ONNX model"),
  ):
    with pytest.raises(UserError, match=words):
      wrong()
