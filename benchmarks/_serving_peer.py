"""A model behind a server from PyPI. Run by the Python of the peer's own environment; imports nothing of this project.

Usage: ``python _serving_peer.py PEER MODEL-DIRECTORY PORT``. Each is set up as its documentation shows, with one
worker, the model on OpenVINO, and requests as JSON. Peers read annotations, so that only those they want are here.
"""
# ruff: noqa: ANN001, ANN202, ANN204, S606

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import openvino

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class Tiny:
    """The model; safe to use from several threads."""

    def __init__(self, directory):
        core = openvino.Core()
        self._compiled = core.compile_model(core.read_model(directory), "CPU", PROPERTIES)
        self._mine = threading.local()

    def __call__(self, x):
        if not hasattr(self._mine, "request"):
            self._mine.request = self._compiled.create_infer_request()
        array = np.asarray(x, dtype=np.float32)
        return np.array(self._mine.request.infer([array], share_inputs=True, share_outputs=True)[0])


def litserve(directory, port):
    # It starts processes that import the module again.
    Path("lit_tiny.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import litserve as ls\nfrom _serving_peer import Tiny\n"
        "class Api(ls.LitAPI):\n"
        f"    def setup(self, device):\n        self.model = Tiny({directory!r})\n"
        "    def decode_request(self, request):\n        return request['x']\n"
        "    def predict(self, x):\n        return self.model(x)\n"
        "    def encode_response(self, output):\n        return {'y': output.tolist()}\n"
        "if __name__ == '__main__':\n"
        "    server = ls.LitServer(Api(), accelerator='cpu', workers_per_device=1)\n"
        f"    server.run(host='127.0.0.1', port={port}, generate_client_file=False, log_level='warning')\n"
    )
    os.execv(sys.executable, [sys.executable, "lit_tiny.py"])


def ray(directory, port):
    from ray import init, serve
    from starlette.requests import Request

    init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    class Deployment:
        def __init__(self):
            self.model = Tiny(directory)

        async def __call__(self, request: Request):
            return {"y": self.model((await request.json())["x"]).tolist()}

    deployment = serve.deployment(max_ongoing_requests=64)(Deployment)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(deployment.bind(), blocking=True)


def bentoml(directory, port):
    module = Path("bento_tiny.py")
    module.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import bentoml\nfrom _serving_peer import Tiny\n"
        "@bentoml.service(workers=1)\nclass Service:\n"
        f"    def __init__(self):\n        self.model = Tiny({directory!r})\n"
        "    @bentoml.api\n    def predict(self, x: list[float]) -> dict:\n"
        "        return {'y': self.model(x).tolist()}\n"
    )
    command = ["bentoml", "serve", "bento_tiny:Service", "--host", "127.0.0.1", "--port", str(port)]
    os.environ["BENTOML_DO_NOT_TRACK"] = "1"
    os.execv(Path(sys.executable).parent / "bentoml", command)


def mlserver(directory, port):
    Path("mlserver_tiny.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import numpy as np\nfrom mlserver import MLModel\nfrom mlserver.codecs import NumpyCodec\n"
        "from mlserver.types import InferenceResponse\nfrom _serving_peer import Tiny\n"
        "class Runtime(MLModel):\n"
        f"    async def load(self):\n        self.model = Tiny({directory!r})\n        return True\n"
        "    async def predict(self, payload):\n"
        "        y = self.model(NumpyCodec.decode_input(payload.inputs[0]))\n"
        "        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output('y', y)])\n"
    )
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    Path("settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    Path("model-settings.json").write_text(json.dumps({"name": "tiny", "implementation": "mlserver_tiny.Runtime"}))
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", "."])


if __name__ == "__main__":
    peers = {"litserve": litserve, "ray": ray, "bentoml": bentoml, "mlserver": mlserver}
    peers[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
