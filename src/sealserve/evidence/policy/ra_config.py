"""Importing ``ra_config.json``, the policy of the secret provisioning server in Intel's confidential-computing-zoo.

Form, from ``secret_prov_pf/ra_utils.h`` there: four switches ``verify_mr_enclave``, ``verify_mr_signer``,
``verify_isv_prod_id`` and ``verify_isv_svn``, ``"on"`` or ``"off"``, and a list ``mrs`` (``sgx_mrs`` in its gRPC
examples) of objects with ``mr_enclave``, ``mr_signer``, ``isv_prod_id`` and ``isv_svn``. With all four off that server
accepts any enclave. Its measurements are compared without a look at debug mode or the TCB.

What comes out is never more lenient than the file where it matters, and each difference is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sealserve.errors import ConfigurationError
from sealserve.evidence.policy.collateral_settings import CollateralSettings
from sealserve.evidence.policy.document import EnclaveReference, PolicyDocument

_SWITCHES = ("verify_mr_enclave", "verify_mr_signer", "verify_isv_prod_id", "verify_isv_svn")
_NO_SWITCH = ("verify_config_svn", "verify_enclave_debuggable")  # of later versions, for Occlum
_VALUES = ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn")
_NO_VALUES = ("config_svn", "debuggable")
_LISTS = ("mrs", "sgx_mrs")
_HINT = "Correct the file, or write a policy by hand: see docs/appraisal-policy.md."


@dataclass(frozen=True)
class ImportedPolicy:
    """A policy, and what the person who imports it must know.

    :param warnings: where it is weaker than one would wish. :param remarks: where it is stricter than the original.
    """

    document: PolicyDocument
    warnings: tuple[str, ...]
    remarks: tuple[str, ...]


def import_ra_config(text: bytes | str, *, collateral: CollateralSettings, name: str) -> ImportedPolicy:
    """Make a policy for ``tee: sgx`` of an ``ra_config.json``.

    :param collateral: which the file says nothing about. :param name: the file's, for errors.
    :raises ConfigurationError: the file is not of this form, or pins no measurement.
    """
    reader = _Reader(name)
    config = reader.object_of(text)
    reader.check_names(config, (*_SWITCHES, *_NO_SWITCH, *_LISTS), "")
    on = {switch: reader.switch(config, switch) for switch in _SWITCHES}
    if not on["verify_mr_enclave"] and not on["verify_mr_signer"]:
        raise reader.error(
            "verify_mr_enclave and verify_mr_signer are off, so that any enclave would be accepted: nothing is imported"
        )
    if config.get("verify_config_svn", "off") != "off":
        raise reader.error("verify_config_svn is on, and no policy can express it")
    entries = [reader.reference(entry, index, on) for index, entry in enumerate(reader.entries(config))]
    references = tuple(dict.fromkeys(entries))
    reader.explain_switches(on, references)
    document = PolicyDocument.model_validate({"tee": "sgx", "collateral": collateral, "enclaves": references})
    return ImportedPolicy(document, tuple(reader.warnings), tuple(reader.remarks))


class _Reader:
    """Reads the file, and collects what must be told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.warnings: list[str] = []
        self.remarks: list[str] = []

    def error(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self.name}: {text}", hint=_HINT)

    def object_of(self, text: bytes | str) -> dict[str, Any]:
        try:
            found = json.loads(text, object_pairs_hook=self._once)
        except (ValueError, RecursionError) as error:
            raise self.error("is not JSON") from error
        if not isinstance(found, dict):
            raise self.error("is not a JSON object")
        return found

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise self.error("has a setting twice")
        return found

    def check_names(self, found: dict[str, Any], known: Iterable[str], where: str) -> None:
        if unknown := sorted(set(found) - set(known)):
            raise self.error(f"{where}{unknown[0]} is not a known setting")

    def switch(self, config: dict[str, Any], name: str) -> bool:
        value = config.get(name)
        if value == "":
            self.remarks.append(f"{name} is an empty string, which the original takes for on; so it is taken here")
            return True
        if value not in {"on", "off"}:
            raise self.error(f"{name} must be on or off" if name in config else f"{name} is missing")
        return bool(value == "on")

    def entries(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        given = [name for name in _LISTS if name in config]
        if len(given) != 1:
            raise self.error("must have one list of measurements, mrs or sgx_mrs")
        entries = config[given[0]]
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise self.error(f"{given[0]} must be a list with at least one object")
        return entries

    def reference(self, entry: dict[str, Any], index: int, on: dict[str, bool]) -> EnclaveReference:
        where = f"entry {index + 1}: "
        self.check_names(entry, (*_VALUES, *_NO_VALUES), where)
        if entry.get("debuggable") not in {None, False}:
            raise self.error(f"{where}debuggable is not false, and an enclave in debug mode is never accepted")
        values: dict[str, Any] = {}
        if on["verify_mr_enclave"]:
            values["mrenclave"] = self._text(entry, "mr_enclave", where)
        if on["verify_mr_signer"]:
            values["mrsigner"] = self._text(entry, "mr_signer", where)
            values["isv_prod_id"] = self._number(entry, "isv_prod_id", where)
            values["minimum_isv_svn"] = self._number(entry, "isv_svn", where) if on["verify_isv_svn"] else 0
        try:
            return EnclaveReference(**values)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            text = str(found.get("ctx", {}).get("error", found["msg"]))
            raise self.error(f"{where}{'.'.join(map(str, found['loc']))} {text}") from None

    def _text(self, entry: dict[str, Any], name: str, where: str) -> str:
        value = entry.get(name)
        if not isinstance(value, str) or not value:
            raise self.error(f"{where}{name} is {'empty' if value == '' else 'missing'}, and verify_{name} is on")
        return value

    def _number(self, entry: dict[str, Any], name: str, where: str) -> int:
        value = entry.get(name)
        quoted = isinstance(value, str)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:6])
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{where}{name} must be a number")
        if quoted and value:
            self.remarks.append(
                f'{where}{name} is the text "{value}"; the original reads 0 from any text, and here it is {value}'
            )
        return value

    def explain_switches(self, on: dict[str, bool], references: tuple[EnclaveReference, ...]) -> None:
        if not on["verify_mr_enclave"]:
            self.warnings.append(
                "verify_mr_enclave is off: any enclave of the signer is accepted, so that the signing key decides "
                "what runs"
            )
        if on["verify_mr_signer"]:
            self._explain_versions(on, references)
        else:
            self.warnings.append("verify_mr_signer is off: whoever signed the enclave, its measurement alone counts")
            if on["verify_isv_prod_id"] or on["verify_isv_svn"]:
                self.warnings.append(
                    "verify_isv_prod_id and verify_isv_svn are not taken over: product and version are what the "
                    "signer says, and verify_mr_signer is off"
                )
        self.remarks += [
            "enclaves in debug mode are never accepted; the original accepts them",
            "only platforms whose TCB is UpToDate are accepted, where the original accepts any; tcb_statuses widens it",
        ]

    def _explain_versions(self, on: dict[str, bool], references: tuple[EnclaveReference, ...]) -> None:
        if on["verify_isv_svn"]:
            self.remarks.append(
                "isv_svn becomes a minimum: later security versions are accepted too, where the original wants exactly "
                "this one"
            )
        else:
            self.warnings.append(
                "verify_isv_svn is off: every security version is accepted (minimum_isv_svn: 0), also those whose "
                "holes are known"
            )
        if not on["verify_isv_prod_id"]:
            products = ", ".join(sorted({str(reference.isv_prod_id) for reference in references}))
            self.warnings.append(
                "verify_isv_prod_id is off, and the original accepts every product of the signer; no policy does, "
                f"so that the policy demands what stands in the file: product {products}"
            )
