#!/usr/bin/env bash
# Prepares a machine for SGX enclaves with remote attestation: @@title@@.
# Rendered by `sealserve cloud setup @@name@@`. Read it, then run it as root. It can be run again.
set -eu -o pipefail
umask 022

enclave='@@enclave@@'
provision='@@provision@@'
aesm_socket='@@aesm_socket@@'
qcnl_file='@@qcnl_path@@'
os_release=/etc/os-release
apt_settings=/etc/apt

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

check_system() {
    [ "$(id -u)" -eq 0 ] || fail 'this must be run as root: sudo bash SCRIPT'
    [ "$(uname -m)" = x86_64 ] || fail 'SGX needs an x86-64 machine'
    # shellcheck source=/dev/null
    . "$os_release"
    case "$ID:${VERSION_ID:-}" in
        @@systems@@) say "system: ${PRETTY_NAME:-$ID}" ;;
        *) fail "this system ($ID ${VERSION_ID:-}) is none that the script knows: "@@systems_shown@@ ;;
    esac
}

check_sgx() {
    if [ -c "$enclave" ] && [ -c "$provision" ]; then
        say "SGX driver: $enclave and $provision are there"
        return
    fi
    # Upstream kernels have the driver since 5.11 and show the flag only where firmware and hypervisor allow SGX.
    local release
    release=$(uname -r)
    if [ "$(printf '5.11\n%s\n' "$release" | sort -V | head -n 1)" != 5.11 ]; then
        fail "kernel $release has no SGX driver: install 5.11 or later, and restart"
    fi
    grep -qw sgx /proc/cpuinfo || fail 'the kernel sees no SGX: switch it on in the BIOS, or take an instance type that has it'
    fail "the CPU has SGX, and $enclave or $provision is missing: the kernel lacks CONFIG_X86_SGX, or the CPU launch control (flag sgx_lc)"
}
