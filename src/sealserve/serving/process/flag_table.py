"""Every flag of TensorFlow Serving's ``tensorflow_model_server`` 2.20, and the server's own.

Names, types and defaults: ``tensorflow_serving/model_servers/main.cc`` and ``server.h``.
"""

from __future__ import annotations

from sealserve.serving.process.flags import Flag, Group

_NO_TPU = "the engines here compute on CPUs"
_TFLITE = "TensorFlow Lite's interpreter is not one of the engines here"
_INT32 = (1 << 31) - 1

GROUPS = (
    Group(
        "Where to listen",
        (
            Flag("port", 8500, "Port for gRPC; 0 for none.", least=0, most=65535),
            Flag("grpc_socket_path", "", "Listen for gRPC on this UNIX socket too.", metavar="PATH"),
            Flag("rest_api_port", 0, "Port for REST; 0 for none.", least=0, most=65535),
            Flag(
                "host",
                "",
                "IP address or name to listen on. Not given: every IPv4 address with --ssl_config_file or "
                "--insecure_plaintext, 127.0.0.1 without.",
            ),
            Flag("ssl_config_file", "", "SSLConfig as protobuf text: TLS for gRPC and REST.", metavar="FILE"),
            Flag("insecure_plaintext", False, "Serve without TLS on addresses other than this machine's own."),
        ),
    ),
    Group(
        "Models",
        (
            Flag("model_name", "default", "Name of the one model.", metavar="NAME"),
            Flag("model_base_path", "", "Directory of its versions, plain or sealed.", metavar="DIRECTORY"),
            Flag(
                "model_config_file",
                "",
                "ModelServerConfig as protobuf text: several models, version policies, labels. In place of the two "
                "above. SIGHUP reads it again.",
                metavar="FILE",
            ),
            Flag(
                "model_config_file_poll_wait_seconds",
                0,
                "Seconds between two looks at that file; 0 for one look.",
                least=0,
                most=_INT32,
            ),
            Flag(
                "file_system_poll_wait_seconds",
                1,
                "Seconds between two looks for new versions; 0 or less for one look, at the start.",
                least=-_INT32,
                most=_INT32,
            ),
            Flag(
                "allow_reload_requests",
                False,
                "Let every caller of HandleReloadConfigRequest say which models are served. Without it, only a server "
                "that listens on this machine's own addresses alone, or asks callers for certificates, lets them.",
            ),
            Flag("key_file", "", "Wrap key of sealed model directories: 16 raw bytes.", metavar="FILE"),
            Flag(
                "allow_version_labels_for_unavailable_models",
                False,
                "Let a new label point to a version that is not there yet.",
            ),
        ),
    ),
    Group(
        "Loading",
        (
            Flag(
                "num_load_threads",
                0,
                "How many versions are loaded at once; 0 for one after the other.",
                least=0,
                most=1024,
            ),
            Flag("max_num_load_retries", 5, "Further tries when a version fails to load.", least=0, most=_INT32),
            Flag("load_retry_interval_micros", 60_000_000, "Microseconds between two tries; negative for none."),
            Flag("enable_model_warmup", True, "Replay the requests that come with a version before it answers."),
            Flag(
                "num_request_iterations_for_warmup",
                0,
                "How often each of them is replayed; 0 is once.",
                least=0,
                most=_INT32,
            ),
        ),
    ),
    Group(
        "Engines",
        (
            Flag(
                "engine",
                "openvino",
                "openvino or tensorflow: the engine of models that --model_engine does not name.",
                metavar="NAME",
            ),
            Flag(
                "model_engine",
                "",
                "Engine of the model of that name: `half_plus_two=tensorflow`. May be repeated.",
                several=True,
                metavar="MODEL=NAME",
            ),
            Flag("precision", "f32", "In which models compute: f32, bf16 or f16.", metavar="NAME"),
            Flag(
                "mixed_precision",
                "",
                "`bfloat16` is --precision=bf16.",
                metavar="MODE",
            ),
            Flag(
                "tensorflow_session_parallelism",
                0,
                "CPU threads for one request; 0 for all cores.",
                least=0,
                most=4096,
            ),
            Flag(
                "tensorflow_intra_op_parallelism",
                0,
                "CPU threads for one request; 0 for all cores.",
                least=0,
                most=4096,
            ),
            Flag(
                "tensorflow_inter_op_parallelism",
                0,
                "Requests that are in an engine at once; 0 for its own choice.",
                least=0,
                most=4096,
            ),
        ),
    ),
    Group(
        "Batching",
        (
            Flag("enable_batching", False, "Answer several requests at once."),
            Flag("batching_parameters_file", "", "BatchingParameters as protobuf text.", metavar="FILE"),
            Flag(
                "enable_per_model_batching_parameters",
                False,
                "Take them from batching_params.pbtxt in the version's directory, where it has one.",
            ),
        ),
    ),
    Group(
        "gRPC",
        (
            Flag(
                "grpc_channel_arguments",
                "",
                "Settings of gRPC, with commas between them: grpc.max_connection_age_ms=60000.",
                metavar="NAME=VALUE,...",
            ),
            Flag(
                "grpc_max_threads",
                64,
                "Requests in work at once; RESOURCE_EXHAUSTED beyond.",
                least=1,
                most=4096,
            ),
            Flag("stop_grace", 10.0, "Seconds for requests in flight after SIGTERM.", least=0, most=3600),
        ),
    ),
    Group(
        "REST and metrics",
        (
            Flag("rest_api_num_threads", 0, "Threads for REST; 0 for four a core.", least=0, most=4096),
            Flag("rest_api_timeout_in_ms", 30_000, "Deadline of a REST request.", least=1, most=_INT32),
            Flag(
                "monitoring_config_file",
                "",
                "MonitoringConfig as protobuf text: Prometheus's metrics at the REST port.",
                metavar="FILE",
            ),
            Flag("json_logs", False, "Log as JSON lines."),
            Flag("version", False, "Print the versions of the server and its engines, and end."),
        ),
    ),
    Group(
        "Of TensorFlow Serving, accepted and without effect",
        (
            Flag(
                "num_unload_threads",
                0,
                "",
                note="a version is unloaded by whichever thread ends its last request, in no time worth a thread",
                idle=(0,),
            ),
            Flag(
                "flush_filesystem_caches",
                True,
                "",
                note="the page cache is left to the system: it gives such pages back before memory runs short",
            ),
            Flag(
                "remove_unused_fields_from_bundle_metagraph",
                True,
                "",
                note="a graph is not kept once the engine has it, whatever this says",
                idle=(True,),
            ),
            Flag(
                "enable_grpc_healthcheck_service",
                True,
                "",
                note="health checks are always answered",
                idle=(True,),
            ),
            Flag(
                "enable_profiler",
                False,
                "",
                note="there is no profiler service",
                idle=(False,),
            ),
            Flag(
                "per_process_gpu_memory_fraction",
                0.0,
                "",
                note="the engines here compute on CPUs: there is no GPU memory to share",
                idle=(0.0,),
            ),
            Flag(
                "enable_serialization_as_tensor_content",
                False,
                "",
                note="answers have typed values, which every client reads",
                idle=(False,),
            ),
            Flag("num_tflite_pools", 0, "", note=_TFLITE),
            Flag("num_tflite_interpreters_per_pool", 1, "", note=_TFLITE),
            Flag("skip_initialize_tpu", False, "", note=_NO_TPU, idle=(False,)),
            Flag(
                "xla_cpu_compilation_enabled",
                False,
                "",
                note="OpenVINO compiles the whole graph anyway, and the engine tensorflow computes without XLA",
                idle=(False,),
            ),
            Flag("xla_gpu_compilation_enabled", False, "", note=_NO_TPU, idle=(False,)),
        ),
    ),
    Group(
        "Of TensorFlow Serving, refused",
        (
            Flag(
                "saved_model_tags",
                "serve",
                "Tags of the graph to load.",
                refusal="the graph with the tag `serve` is loaded, and no other",
                hint="Export the model with that tag, as `tf.saved_model.save` and Keras do.",
                idle=("serve", ""),
            ),
            Flag(
                "use_alts_credentials",
                False,
                "",
                refusal="Google's ALTS works on Google Cloud alone, and this server has TLS",
                hint="Use --ssl_config_file.",
                idle=(False,),
            ),
            Flag(
                "platform_config_file",
                "",
                "",
                refusal="it configures the parts of TensorFlow Serving's own process",
                hint="Use --enable_batching, --engine and the --tensorflow_..._parallelism flags.",
                idle=("",),
                metavar="FILE",
            ),
            Flag(
                "tensorflow_session_config_file",
                "",
                "",
                refusal="a ConfigProto is for TensorFlow's sessions; OpenVINO has none",
                hint="Use --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism.",
                idle=("",),
                metavar="FILE",
            ),
            Flag(
                "thread_pool_factory_config_file",
                "",
                "",
                refusal="it names C++ classes that are linked into TensorFlow Serving",
                hint="Use --tensorflow_intra_op_parallelism.",
                idle=("",),
                metavar="FILE",
            ),
            Flag(
                "enable_signature_method_name_check",
                False,
                "",
                refusal="a signature is taken for what its inputs and outputs are, whatever its method_name says",
                hint="Leave it out: it is off in TensorFlow Serving too, unless it is asked for.",
                idle=(False,),
            ),
            Flag(
                "rest_api_enable_cors_support",
                False,
                "",
                refusal="the REST server sends no CORS headers: any page could call it from its visitors' browsers",
                hint="Let a proxy in front of it send them, for the origins that you mean.",
                idle=(False,),
            ),
            Flag(
                "prefer_tflite_model",
                False,
                "",
                refusal=_TFLITE,
                hint="Serve the SavedModel beside it; OpenVINO reads a model.tflite that stands alone.",
                idle=(False,),
            ),
        ),
    ),
)

FLAGS = {flag.name: flag for group in GROUPS for flag in group.flags}

OWN = frozenset(
    (
        "allow_reload_requests",
        "engine",
        "host",
        "insecure_plaintext",
        "json_logs",
        "key_file",
        "model_engine",
        "precision",
        "stop_grace",
    )
)
"""Those that TensorFlow Serving does not have."""
