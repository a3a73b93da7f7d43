"""The figures and tables, drawn from run folders: a PNG or a page, and the numbers in a CSV."""

import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from inversion_jax import information, report
from inversion_jax.machine import storage
from inversion_jax.paper import noisy, plans, positions, rankings
from inversion_jax.paper.plans import Planned, Scale
from inversion_jax.report import figures, pictures
from inversion_jax.report.files import Replicates, RunFiles, read_run, rows_of
from inversion_jax.runs import Run

_MAX_ROWS = 8


def figure_1(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """Original, mean-squared-error reconstruction and samples, for each layer and set."""
  parts, rows = [], []
  for dataset in scale.datasets:
    runs = [_first(workdir, scale, f"{dataset}/{layer}") for layer in scale.layers]
    samples = runs[0].samples
    columns = [pictures.Column("original", samples["original"][:_MAX_ROWS, None])]
    for run in runs:
      columns.append(
        pictures.Column(f"{run.layer} MSE", run.samples["reconstruction"][:_MAX_ROWS, None])
      )
      columns.append(pictures.Column("samples", run.samples["sample"][:_MAX_ROWS, :2]))
      mse = run.summary.get("decoder_mse")
      rows.append(_numbers(Replicates((run,)), dataset, decoder_mse=mse))
    parts.append(_grid(columns, samples, runs[0]))
  _stack(parts, output / "figure_1.png")
  storage.write_table(output / "figure_1.csv", rows)


def figure_2(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """The closest of many samples given fc3, beside the nearest training images."""
  parts, rows = [], []
  for dataset in scale.datasets:
    run = _first(workdir, scale, f"{dataset}/fc3")
    arrays = storage.read_npz(run.folder / storage.NEIGHBOURS)
    num_shown, num_closest = arrays["closest_l1"].shape
    nearest = arrays["nearest"][:num_shown, :num_closest]
    columns = [
      pictures.Column("original", arrays["original"][:num_shown, None]),
      pictures.Column(f"closest of {scale.num_many} samples", arrays["closest"]),
      pictures.Column("nearest training images", nearest),
    ]
    parts.append(_grid(columns, arrays, run))
    for place in range(num_shown):
      for rank in range(num_closest):
        rows.append(
          {
            "dataset": dataset,
            "test_index": arrays["index"][place],
            "rank": rank + 1,
            "sample_l1": arrays["closest_l1"][place, rank],
            "nearest_l1": arrays["nearest_l1"][place, rank],
          }
        )
  _stack(parts, output / "figure_2.png")
  storage.write_table(output / "figure_2.csv", rows)


def figure_3(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """Samples of stacked GANs, ours, and nearest neighbours, with their diversity."""
  report.write_figure_3(output, _root(workdir, scale) / scale.single / "fc3")


def table_1(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """Distances in each layer's own space."""
  root = _root(workdir, scale)
  folders = [root / dataset / layer for dataset in scale.datasets for layer in scale.layers]
  report.write_table_1(output, folders)


def gallery(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """Every way to look inside a layer: pictures, table, page."""
  folder = _root(workdir, scale) / scale.single
  report.write_gallery(output, [folder / layer for layer in scale.layers])


def figure_4(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """Three networks on affNIST: accuracy, NCE, and where their samples lie."""
  parts, rows = [], []
  found = {kind: _replicates(workdir, scale, f"{scale.moved}/{kind}_fc3") for kind in plans.KINDS}
  first = plans.KINDS[0]
  for kind, row in found.items():
    run = row.first
    shown = {name: values[:6] for name, values in run.samples.items()}
    columns = [
      pictures.Column("original", shown["original"][:, None]),
      pictures.Column(f"{kind}: MSE", shown["reconstruction"][:, None]),
      pictures.Column("samples", shown["sample"][:, :6]),
    ]
    parts.append(_grid(columns, shown, run))
    source_n = run.sources[rows_of(run.nats["index"], run.samples["index"])]
    samples = [one.samples["sample"] for one in row.runs]
    scatter_Sn = np.stack([positions.scatter(of_seed) for of_seed in samples])
    scatter = information.mean_over_seeds(scatter_Sn, source_n)
    readouts = [positions.left_by_readout(Run.load(one.folder)) for one in row.runs]
    left = information.mean_over_seeds(np.stack([left_N for left_N, _ in readouts]), readouts[0][1])
    rows.append(
      _numbers(
        row,
        kind,
        **_gain(f"minus_{first}", row, found[first]),
        test_accuracy=row.mean("classifier_test_accuracy"),
        **scatter.fields("centroid_variance_pixels2", "centroid_variance_standard_error"),
        **left.fields("left_by_readout_pixels2", "left_by_readout_standard_error"),
        empty_fraction=float(np.mean([positions.empty_fraction(one) for one in samples])),
      )
    )
  _stack(parts, output / "figure_4.png")
  storage.write_table(output / "figure_4.csv", rows)


def figure_5a(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """NCE by layer and set, relative to the magnitude of the first one's, conv1 in the paper."""
  rows = []
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for dataset in scale.datasets:
      of_set = [_replicates(workdir, scale, f"{dataset}/{layer}") for layer in scale.layers]
      size = abs(of_set[0].nce.mean)
      means = [row.nce.mean / size for row in of_set]
      errors = figures.error_bars([row.nce for row in of_set]) / size
      axes.errorbar(scale.layers, means, errors, marker="o", capsize=3, label=dataset)
      for place, row in enumerate(of_set):
        below = _gain("minus_layer_before", row, of_set[place - 1]) if place else {}
        relative = {f"relative_to_{scale.layers[0]}": means[place]}
        rows.append(_numbers(row, dataset, **relative, **below))
    axes.set(title="Figure 5a", ylabel=f"NCE / |NCE of {scale.layers[0]}|")
    axes.legend()
  figures.save(figure, output / "figure_5a.png")
  storage.write_table(output / "figure_5a.csv", rows)


def figure_5b(workdir: pathlib.Path, output: pathlib.Path, scale: Scale) -> None:
  """NCE by layer over classifier updates, of the regular and the overfitted network.

  Where layers are seen through noise (`--config.representation.sigma=1`), bounds from both sides.
  """
  folder = f"{scale.single}/dynamics"
  found = {
    place: _replicates(workdir, scale, f"{folder}/{plans.dynamics_name(*place)}")
    for place in plans.dynamics_places(scale)
  }
  through_noise = {
    place: noisy.of_seeds([run.folder for run in row.runs]) for place, row in found.items()
  }
  rows, prior = [], _replicates(workdir, scale, f"{folder}/{plans.PRIOR}")
  for (regime, layer, step), row in found.items():
    before = scale.snapshots[max(scale.snapshots.index(step) - 1, 0)]
    compared = {
      "since_first": found[regime, layer, scale.snapshots[0]],
      "since_before": found[regime, layer, before],
      "minus_regular": found["regular", layer, step],
      "minus_prior": prior,
    }
    differences = {}
    for name, over in compared.items():
      differences |= _gain(name, row, over)
    sides = noisy.cells(through_noise[regime, layer, step], through_noise[regime, layer, before])
    rows.append(_numbers(row, regime, classifier_updates=step, **differences, **sides))
  figures.save(_dynamics_figure(found, scale), output / "figure_5b.png")
  storage.write_table(output / "figure_5b.csv", rows)


def _dynamics_figure(found, scale):
  """The bars are of the change since the first point, image by image: of it the figure tells.

  The spread of the images' own nats is far larger, and the same at every point.
  """
  first = scale.snapshots[0]
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(figures.WIDTH, 3.2), layout="constrained")
    all_axes = figure.subplots(1, len(scale.layers), squeeze=False)[0]
    for axes, layer in zip(all_axes, scale.layers, strict=True):
      for regime, color in (("regular", figures.BLUE), ("overfitted", figures.RED)):
        of_regime = [found[regime, layer, step] for step in scale.snapshots]
        means = [row.nce.mean for row in of_regime]
        changes = [_difference(row, found[regime, layer, first]) for row in of_regime]
        errors = figures.error_bars(changes)
        places = range(len(scale.snapshots))
        axes.errorbar(places, means, errors, marker="o", capsize=3, color=color, label=regime)
      axes.set(title=layer, xlabel="classifier updates")
      axes.set_xticks(range(len(scale.snapshots)), [f"{step:,}" for step in scale.snapshots])
    all_axes[0].set_ylabel("NCE, nats per image")
    handles, labels = all_axes[0].get_legend_handles_labels()
    title = f"bars: 95% interval of the change since {first} updates, paired by image"
    figure.legend(handles, labels, loc="outside upper right", ncols=2, title=title, fontsize=8)
  return figure


def _root(workdir, scale) -> pathlib.Path:
  """Of the first seed, which stands for the others where pictures are shown."""
  return plans.roots(workdir, scale)[0]


def _first(workdir, scale, folder) -> RunFiles:
  return read_run(_root(workdir, scale) / folder)


def _replicates(workdir, scale, folder) -> Replicates:
  return Replicates(tuple(read_run(root / folder) for root in plans.roots(workdir, scale)))


def _difference(row: Replicates, over: Replicates) -> information.Estimate:
  """NCE of `row` minus NCE of `over`, which have the same seeds and test images."""
  return information.difference_over_seeds(
    row.nce_by_seed, over.nce_by_seed, row.sources, is_paired=True
  )


def _gain(name: str, row: Replicates, over: Replicates) -> dict[str, float]:
  """Three cells of a row: NCE of `row` minus NCE of `over` and its 95% interval."""
  gain = _difference(row, over)
  low, high = gain.interval()
  return {f"{name}_nats": gain.mean, f"{name}_low": low, f"{name}_high": high}


def _numbers(row: Replicates, group: str, **further: Any) -> dict[str, Any]:
  nce = row.nce
  low, high = nce.interval()
  return {
    "group": group,
    "dataset": row.first.summary["dataset"],
    "layer": row.layer,
    "num_seeds": len(row.runs),
    "nce_nats": nce.mean,
    "nce_nats_low": low,
    "nce_nats_high": high,
    "bits_per_dim": information.bits_per_dim(-nce.mean, row.first.summary["image_shape"]),
    "num_test_images": len(row.sources),
    "inverter_steps": row.mean("inverter_steps"),
    **further,
  }


def _grid(columns, arrays, run):
  num_rows = len(columns[0].levels)
  names = pictures.row_names(arrays["index"][:num_rows], arrays["label"][:num_rows])
  return pictures.grid_figure(columns, names, run.summary["num_levels"])


def _stack(parts: Sequence[Figure], path: pathlib.Path):
  """One PNG of several figures, one below the other."""
  with tempfile.TemporaryDirectory() as folder:
    images = []
    for place, figure in enumerate(parts):
      part = pathlib.Path(folder) / f"{place}.png"
      figures.save(figure, part)
      images.append(Image.open(part).convert("RGB"))
    width, height = max(image.width for image in images), sum(image.height for image in images)
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for image in images:
      whole.paste(image, (0, top))
      top += image.height
  with storage.replacing(path) as temporary:
    whole.save(temporary, format="png")


class Experiment(NamedTuple):
  """A figure or table: its runs, and `draw(workdir, output, scale)`."""

  title: str
  plan: Callable[[Scale], list[Planned]]
  draw: Callable[[pathlib.Path, pathlib.Path, Scale], None]


# Beside the paper's own: "paper" is not these.
FURTHER = {
  "gallery": Experiment("Every way to look inside a layer", plans.gallery, gallery),
  "ranking": Experiment("Layers in order, under two readers", plans.ranking, rankings.draw),
}
EXPERIMENTS = {
  "figure_1": Experiment("Inverting network layers", plans.layers, figure_1),
  "figure_2": Experiment("Samples and nearest neighbours", plans.closest_samples, figure_2),
  "figure_3": Experiment("Stacked GANs given fc3", plans.gans, figure_3),
  "table_1": Experiment(
    "Images in representation space", lambda scale: plans.layers(scale, "neighbours"), table_1
  ),
  "figure_4": Experiment("Three architectures on affNIST", plans.architectures, figure_4),
  "figure_5a": Experiment("NCE by layer and set", plans.layers, figure_5a),
  "figure_5b": Experiment("NCE over classifier training", plans.dynamics, figure_5b),
}
