"""Fashion-MNIST: clothes in the archive format of MNIST, under MNIST's names of files."""

import posixpath
from typing import ClassVar

from tensorflow_datasets.image_classification import mnist as official

from inversion_jax.data.datasets import mnist

# As the official builder has it; it publishes no encrypted address.
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


class FashionMnist(mnist.Mnist, official.FashionMNIST, skip_registration=True):
  """The official builder with MNIST's reader: name, version, features and order stay the same."""

  name = "fashion_mnist"
  url_infos = official.FashionMNIST.url_infos
  _info = official.FashionMNIST._info
  VERSION = official.FashionMNIST.VERSION
  RELEASE_NOTES: ClassVar = official.FashionMNIST.RELEASE_NOTES
  URLS: ClassVar = {key: _URL + posixpath.basename(url) for key, url in mnist.Mnist.URLS.items()}
  FOLDER: ClassVar = "fashion_mnist"
