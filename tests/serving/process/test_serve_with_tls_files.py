"""What ``sealserve tls`` writes, used by the server, by grpcio and by curl."""

from __future__ import annotations

import shutil
import subprocess

import grpc
import numpy as np
import pytest
from process_parties import PREDICT, request_of

from sealserve.deploy.tls_files import TlsRequest, write_tls_files
from sealserve.wire.tensorflow_serving_pb2 import PredictResponse

NAME = "grpc.tf-serving.service.com"


@pytest.mark.slow
def test_two_way_files_let_their_client_in_and_nobody_else(tmp_path, start, half) -> None:
    files = tmp_path / "ssl_configure"
    write_tls_files(TlsRequest([NAME], "client.tf-serving.service.com"), files)
    served = start(f"--model_base_path={half}", "--model_name=half", f"--ssl_config_file={files / 'ssl.cfg'}")

    authority = (files / "ca_cert.pem").read_bytes()
    shown = [(files / "client" / name).read_bytes() for name in ("key.pem", "cert.pem")]
    options = [("grpc.ssl_target_name_override", NAME)]
    address = f"127.0.0.1:{served.port}"
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, *shown), options) as channel:
        answer = channel.unary_unary(PREDICT)(request_of("half", np.float32([4])), timeout=30)
    y = PredictResponse.FromString(answer).outputs["y"]
    assert (list(y.float_val) or np.frombuffer(y.tensor_content, np.float32).tolist()) == [4.0]
    with (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary(PREDICT)(request_of("half", np.float32([4])), timeout=5)

    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    url = f"https://{NAME}:{served.rest_port}/v1/models/half:predict"
    ask = [curl, "-sS", "--resolve", f"{NAME}:{served.rest_port}:127.0.0.1", "--cacert", files / "ca_cert.pem", url]
    ask += ["-d", '{"instances": [4.0]}']
    certificate = ["--cert", files / "client/cert.pem", "--key", files / "client/key.pem"]
    done = subprocess.run([*ask, *certificate], capture_output=True, text=True, check=True)
    assert "4.0" in done.stdout
    assert subprocess.run(ask, capture_output=True, check=False).returncode != 0
