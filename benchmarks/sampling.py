r"""Times the three samplers on one model in one process; the last line is one JSON object.

    python benchmarks/sampling.py --height=32 --width=32 --channels=3 --filters=64 --blocks=3 \
        --batch=16 [--layer_shape=5,5,128] [--dtype=float32]

The model has the weights of its data-dependent initialisation, or, with `--run=runs/mnist_conv2`,
those of a trained run, whose test images give h. `--growth` prints a table of cached sampling over
image sizes and batches instead of comparing the samplers.

How the figures are made:

- Rates are the fastest of `--repeats` calls of the compiled sampler after a first one; of the slow
  samplers a single call.
- If all H * W steps of the ancestral loop would take longer than `--ancestral_seconds`, it only
  completes the last rows of the cached sampler's images, and its rate is extrapolated from these
  steps; `ancestral_steps_run` says how many.
- `agreement` is the fraction of sub-pixels that the ancestral loop and the cached sampler have in
  common. Where the loop did not run in full it is the fraction that one pass of the whole network
  over the cached images draws again: 1.0 there too means that the loop gives the same images.
- `max_head_difference` is over the heads of all pixels of the cached sampler's images, of which
  the largest output is `max_head_magnitude`.
- `compile_seconds` (tracing included) and `peak_memory_bytes` (arguments, results, temporaries)
  are those of the cached sampler's program.
"""

import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import subjects
from absl import app, flags

from inversion_jax.fitting import costs
from inversion_jax.machine import compilation
from inversion_jax.models import sampling
from inversion_jax.models.inverters import Inverter
from inversion_jax.runs import Run

FLAGS = flags.FLAGS
flags.DEFINE_string("run", "", "Folder of a trained run, instead of the model of the fields.")
flags.DEFINE_integer("repeats", 3, "Calls to take the fastest of.")
flags.DEFINE_float("ancestral_seconds", 60.0, "Longest time for the ancestral loop.")
flags.DEFINE_bool("fixed_point", True, "Whether to time fixed-point sampling.")
flags.DEFINE_bool("growth", False, "Prints how cached sampling grows with image size and batch.")


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is sampled: a model and h."""

  inverter: Inverter
  params: Any
  z: Any
  size: tuple[int, int]
  batch_size: int
  weights: str

  def compiled(self, fn, *args):
    """`fn(model, contexts, keys, *args)` compiled, with its arguments bound, and how it went."""

    def bound(params, z, *args):
      model = self.inverter.bind({"params": params})
      indices = jnp.arange(self.batch_size)
      keys_B = sampling.sample_keys(jax.random.key(0), indices, jnp.zeros_like(indices))
      return fn(model, model.contexts(z, self.size), keys_B, *args)

    start = time.monotonic()
    executable = compilation.jit_sampler(bound).lower(self.params, self.z, *args).compile()
    seconds = time.monotonic() - start
    return (
      functools.partial(executable, self.params, self.z),
      seconds,
      costs.program_bytes(executable),
    )

  def sampler(self, name, *given):
    """The compiled sampler `name`; `given` is an example of the rows that it completes."""

    def draw(model, contexts, keys_B, *given):
      given_BRWC = given[0] if given else None
      return sampling.draw(model, contexts, keys_B, self.size, sampler=name, given_BRWC=given_BRWC)

    return self.compiled(draw, *given)


def untrained(size, batch_size) -> Subject:
  """A model of the given fields, initialised on noise."""
  network, noise = subjects.network(), subjects.noise(size, batch_size)
  learnt, state = subjects.untrained(noise, network)
  z, inverter = learnt.first_batch[1], network.inverter(noise.num_levels, FLAGS.channels)
  return Subject(inverter, state.params, z, size, batch_size, "initialised")


def trained(folder: str, batch_size: int) -> Subject:
  """The inverter of a run, and the layer of its first test images."""
  run = Run.load(pathlib.Path(folder))
  model, test = run.model, run.pairs("test")
  seen = model.observed.scored(test, run.root_key)
  z, size = seen.batch(np.arange(batch_size) % len(test))["h"], test.image_shape[:2]
  name = f"trained, {run.folder.name}"
  return Subject(model.inverter, model.params, z, size, batch_size, name)


def seconds_of(call, *args, repeats=None) -> float:
  """The fastest of several calls."""
  seconds = []
  jax.block_until_ready(call(*args))  # The first call, and all that is still under way.
  for _ in range(repeats or FLAGS.repeats):
    start = time.monotonic()
    jax.block_until_ready(call(*args))
    seconds.append(time.monotonic() - start)
  return min(seconds)


def compare(subject: Subject) -> dict:
  """Times the samplers, and compares what they draw."""
  cached, compile_seconds, peak_memory_bytes = subject.sampler("cached")
  levels_BHWC = cached()
  cached_rate = subject.batch_size / seconds_of(cached)
  print(f"cached: {cached_rate:.4g} images/s", flush=True)
  result = ancestral(subject, levels_BHWC) | {"cached_images_per_second": cached_rate}
  if FLAGS.fixed_point:
    sampler, *_ = subject.sampler("fixed_point")
    agreement = float((sampler() == levels_BHWC).mean())
    fixed_point_rate = subject.batch_size / seconds_of(sampler, repeats=1)
    print(f"fixed point: {fixed_point_rate:.4g} images/s", flush=True)
    result |= {
      "fixed_point_images_per_second": fixed_point_rate,
      "fixed_point_agreement_with_cached": agreement,
    }
  ancestral_rate = result["ancestral_images_per_second"]
  for name in ("cached", "fixed_point") if FLAGS.fixed_point else ("cached",):
    result[f"{name}_over_ancestral"] = result[f"{name}_images_per_second"] / ancestral_rate
  return result | {
    **head_difference(subject, levels_BHWC),
    "compile_seconds": compile_seconds,
    "peak_memory_bytes": peak_memory_bytes,
  }


def ancestral(subject: Subject, levels_BHWC) -> dict:
  """Times the loop, or its last steps, and says how far it agrees with `levels_BHWC`."""
  (height, width), likelihood = subject.size, subject.inverter.likelihood

  def redraw(model, contexts, keys_B, levels_BHWC):
    def noise_at(pixel):
      return sampling.pixel_noise(likelihood, keys_B, pixel)

    noise = jax.vmap(noise_at, out_axes=1)(jnp.arange(height * width))
    noise = jax.tree.map(lambda x: x.reshape(len(keys_B), height, width, -1), noise)
    return likelihood.draw(model.head(levels_BHWC, contexts), noise)

  redraw, *_ = subject.compiled(redraw, levels_BHWC)
  agreement = float((redraw(levels_BHWC) == levels_BHWC).mean())
  pass_seconds = seconds_of(redraw, levels_BHWC)
  num_rows = int(np.clip(FLAGS.ancestral_seconds / (width * pass_seconds), 1, height))
  given = () if num_rows == height else (levels_BHWC[:, : height - num_rows],)
  sampler, *_ = subject.sampler("ancestral", *given)
  seconds = seconds_of(sampler, *given, repeats=1) * height / num_rows
  if num_rows == height:
    agreement = float((sampler() == levels_BHWC).mean())
  print(f"ancestral: {subject.batch_size / seconds:.4g} images/s", flush=True)
  return {
    "ancestral_images_per_second": subject.batch_size / seconds,
    "ancestral_steps_run": num_rows * width,
    "ancestral_steps": height * width,
    "network_pass_seconds": pass_seconds,
    "agreement": agreement,
  }


def head_difference(subject: Subject, levels_BHWC) -> dict:
  """How far any head output of the cached path is from the whole network's, and how large it is."""

  def difference(model, contexts, keys_B, levels_BHWC):
    rows = levels_BHWC.transpose(1, 2, 0, 3)
    heads = model.raster(
      contexts,
      lambda head_BF, levels_BC: (levels_BC, head_BF),
      rows.__getitem__,
      subject.size,
      len(keys_B),
    )
    whole = model.head(levels_BHWC, contexts)
    return jnp.abs(heads.transpose(2, 0, 1, 3) - whole).max(), jnp.abs(whole).max()

  largest, magnitude = subject.compiled(difference, levels_BHWC)[0](levels_BHWC)
  return {"max_head_difference": float(largest), "max_head_magnitude": float(magnitude)}


def growth() -> dict:
  """Cached sampling over image sizes at one batch, and over batches at one size."""
  print("| pixels | batch | seconds | us per image and pixel | MB | compile s |")
  print("|---|---|---|---|---|---|", flush=True)
  rows = []
  for side, batch_size in ((8, 16), (16, 16), (32, 16), (64, 16), (16, 1), (16, 4), (16, 64)):
    subject = untrained((side, side), batch_size)
    sampler, compile_seconds, memory_bytes = subject.sampler("cached")
    sampler()
    seconds = seconds_of(sampler)
    per_pixel_us = 1e6 * seconds / (batch_size * side**2)
    rows.append(
      {"side": side, "batch": batch_size, "seconds": seconds, "peak_memory_bytes": memory_bytes}
    )
    print(
      f"| {side}x{side} | {batch_size} | {seconds:.3f} | {per_pixel_us:.1f} "
      f"| {memory_bytes / 1e6:.0f} | {compile_seconds:.0f} |",
      flush=True,
    )
  return {"growth": rows}


def main(argv):
  """Runs the benchmark."""
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected arguments {argv[1:]}.")
  if FLAGS.growth:
    result = growth()
  else:
    size = (FLAGS.height, FLAGS.width)
    subject = trained(FLAGS.run, FLAGS.batch) if FLAGS.run else untrained(size, FLAGS.batch)
    result = compare(subject) | {
      "size": [*subject.size, subject.inverter.likelihood.num_colours],
      "batch": subject.batch_size,
      "filters": subject.inverter.num_filters,
      "blocks": subject.inverter.num_blocks,
      "weights": subject.weights,
      "dtype": jnp.dtype(subject.inverter.dtype).name,
    }
  device = subjects.device_name()
  print(json.dumps(result | {"device": device, "jax_version": jax.__version__}))


if __name__ == "__main__":
  app.run(main)
