"""What replicas are to run with, as the key broker's grant tells them."""

from __future__ import annotations

from sealserve.deploy.deployment import Deployment
from sealserve.errors import InputError
from sealserve.files import read_file


def grant_arguments(deployment: Deployment, *, threads: int) -> dict[str, str]:
    """The ``arguments`` of the deployment's grant. :param threads: that the engine of each replica computes with.

    :raises InputError: the file of batching parameters cannot be read; what it says is not looked at.
    """
    arguments = {
        "engine": str(deployment.model.engine),
        "precision": str(deployment.model.precision),
        "threads": str(threads),
    }
    batching = _batching_text(deployment)
    return arguments | ({"batching": batching} if batching else {})


def read_batching(deployment: Deployment) -> str:
    """The batching parameters as text, which is empty for none.

    :raises InputError: the file cannot be read. :raises ConfigurationError: it says what cannot be.
    """
    # Needs numpy, which is not everywhere where a grant is looked at.
    from sealserve.serving.batching import BatchingParameters

    text = _batching_text(deployment)
    if deployment.model.batching is not None:
        BatchingParameters.from_text(text, source=f"{deployment.model.batching}, which model.batching names,")
    return text


def _batching_text(deployment: Deployment) -> str:
    path = deployment.model.batching
    if path is None:
        return ""
    try:
        return read_file(path).decode(errors="replace")
    except InputError as error:
        raise InputError(
            f"{error}, which model.batching names", hint="Make that file, or take model.batching out: no batching then."
        ) from error
