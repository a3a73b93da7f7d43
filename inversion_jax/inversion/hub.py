"""Saved models on a hub of models, by `huggingface_hub`: an optional extra."""

import pathlib
from typing import Any

from inversion_jax.features.adapters import first_line, framework
from inversion_jax.inversion import sharing
from inversion_jax.inversion.model import Inversion
from inversion_jax.machine import storage
from inversion_jax.machine.errors import UserError

# Nothing else is sent, and nothing else fetched.
FILES = (storage.CONFIG, sharing.WEIGHTS, sharing.CARD)


def push(
  folder: str | pathlib.Path, repo_id: str, *, private: bool = False, **settings: Any
) -> str:
  """Puts a model that was saved on the hub; returns the address of what was put there.

      model.save("mine", result=result)
      ij.push("mine", "user/mine")

  Args:
    folder: of `model.save`.
    repo_id: "user/name", made if it is not there.
    private: whether only its owner sees it, if it is made now.
    **settings: of `huggingface_hub.upload_folder`, such as `token` or `revision`.

  Raises:
    UserError: no saved model, or the hub does not take it.
  """
  hub, errors = _framework()
  folder = pathlib.Path(folder)
  if not sharing.is_saved(folder):
    raise UserError(f"{folder} holds no saved model; make one with model.save({str(folder)!r}).")
  try:
    hub.create_repo(repo_id, private=private, exist_ok=True, token=settings.get("token"))
    return str(
      hub.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES), **settings)
    )
  except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
    raise UserError(f"The hub does not take {repo_id} ({first_line(error)}).") from error


def pull(repo_id: str, **settings: Any) -> Inversion:
  """The model that lies on the hub, kept in its own cache on the disk.

      model = ij.pull("user/mine", revision="main")

  Args:
    repo_id: "user/name".
    **settings: of `huggingface_hub.snapshot_download`, such as `revision`, `token`, `local_dir`.

  Raises:
    UserError: the hub does not give it, or it is no saved model.
  """
  hub, errors = _framework()
  try:
    folder = hub.snapshot_download(repo_id, allow_patterns=list(FILES), **settings)
  except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
    raise UserError(f"The hub does not give {repo_id} ({first_line(error)}).") from error
  if not sharing.is_saved(pathlib.Path(folder)):
    raise UserError(f"{repo_id} holds no model of inversion_jax: it has no {sharing.WEIGHTS}.")
  return sharing.loaded(pathlib.Path(folder))


def _framework():
  return framework("huggingface_hub", "hub"), framework("huggingface_hub.errors", "hub")
