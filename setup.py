"""What setup.cfg cannot say: a wheel has the files of `configs/` inside the package."""

import setuptools

setuptools.setup(
  packages=[*setuptools.find_packages(include=["inversion_jax*"]), "inversion_jax.configs"],
  package_dir={"inversion_jax.configs": "configs"},
)
