"""The settings that Gramine 1.9 has (https://gramine.readthedocs.io/en/stable/manifest-syntax.html)."""

from __future__ import annotations

_SETTINGS = frozenset(
    {
        "libos.entrypoint",
        "libos.check_invalid_pointers",
        "loader.argv",
        "loader.argv_src_file",
        "loader.entrypoint.sha256",
        "loader.entrypoint.uri",
        "loader.env_src_file",
        "loader.gid",
        "loader.insecure__disable_aslr",
        "loader.insecure__use_cmdline_argv",
        "loader.insecure__use_host_env",
        "loader.log_file",
        "loader.log_level",
        "loader.uid",
        "fs.mounts",
        "fs.root.enable_recovery",
        "fs.root.key_name",
        "fs.root.type",
        "fs.root.uri",
        "fs.start_dir",
        "sgx.allowed_files",
        "sgx.debug",
        "sgx.edmm_enable",
        "sgx.enable_stats",
        "sgx.enclave_size",
        "sgx.file_check_policy",
        "sgx.insecure__allow_memfaults_without_exinfo",
        "sgx.insecure__rpc_thread_num",
        "sgx.isvprodid",
        "sgx.isvsvn",
        "sgx.max_threads",
        "sgx.preheat_enclave",
        "sgx.remote_attestation",
        "sgx.trusted_files",
        "sgx.use_exinfo",
        "sgx.vtune_profile",
        "sys.allowed_ioctls",
        "sys.brk.max_size",
        "sys.debug__mock_syscalls",
        "sys.disallow_subprocesses",
        "sys.enable_extra_runtime_domain_names_conf",
        "sys.enable_sigterm_injection",
        "sys.experimental__enable_flock",
        "sys.fds.limit",
        "sys.insecure__allow_eventfd",
        "sys.stack.size",
    }
)
_OPEN_TABLES = (
    "fs.insecure__keys.",
    "loader.env.",
    "sgx.cpu_features.",
    "sgx.profile.",
    "sgx.seal_key.",
    "sys.ioctl_structs.",
)


def is_known(key: str) -> bool:
    """Whether Gramine 1.9 has a setting of this dotted name."""
    return key in _SETTINGS or key.startswith(_OPEN_TABLES)
