#!/usr/bin/env bash
# Prepares a machine for SGX enclaves with remote attestation: A machine of your own.
# Rendered by `sealserve cloud setup bare-metal`. Read it, then run it as root. It can be run again.
set -eu -o pipefail
umask 022

enclave='/dev/sgx_enclave'
provision='/dev/sgx_provision'
aesm_socket='/var/run/aesmd/aesm.socket'
qcnl_file='/etc/sgx_default_qcnl.conf'
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
        ubuntu:22.04*|ubuntu:24.04*|debian:12*) say "system: ${PRETTY_NAME:-$ID}" ;;
        *) fail "this system ($ID ${VERSION_ID:-}) is none that the script knows: "'ubuntu 22.04 and 24.04, debian 12' ;;
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

# fetch_key URL FILE FINGERPRINT...: FILE gets the key only if every key in it has one of the fingerprints. What gpg took
# is written anew: apt reads armour more loosely than gpg, and would take keys from a downloaded file that gpg passes over.
fetch_key() {
    local url=$1 file=$2 home found fingerprint
    shift 2
    home=$(mktemp -d)
    curl --fail --silent --show-error --location --proto '=https' --tlsv1.2 --max-time 60 --output "$home/fetched" "$url"
    gpg --homedir "$home" --no-autostart --batch --quiet --import "$home/fetched" || fail "$url holds no key"
    found=$(gpg --homedir "$home" --no-autostart --batch --list-keys --with-colons |
        awk -F: '$1 == "pub" { wanted = 1 } $1 == "fpr" && wanted { print $10; wanted = 0 }')
    [ -n "$found" ] || fail "$url holds no key"
    for fingerprint in $found; do
        case " $* " in
            *" $fingerprint "*) ;;
            *) fail "$url holds the key $fingerprint, which is none of: $*" ;;
        esac
    done
    gpg --homedir "$home" --no-autostart --batch --export "$@" >"$home/taken"
    install -D -m 0644 "$home/taken" "$file"
    rm -rf "$home"
    say "key: $file"
}

install_with_apt() {
    export DEBIAN_FRONTEND=noninteractive
    local codename=$VERSION_CODENAME intel_codename=$VERSION_CODENAME
    local -a gramine_keys=(1CBF71E00FF0A5577A4EA6984B8D8EC2F8BE4647 71807D6094DDF649D9591A53B951298EB73C9392)
    case $codename in
        jammy) gramine_keys=(EA3C2D624681AC968521587A5EE1171912234070) ;;
        # Intel has no repository for Debian 12; Gramine's instructions take the one for Ubuntu 22.04.
        bookworm) gramine_keys=(EA3C2D624681AC968521587A5EE1171912234070) intel_codename=jammy ;;
    esac
    # What an earlier setup left may name another key, or none (trusted=yes).
    local intel_list=$apt_settings/sources.list.d/intel-sgx.list gramine_list=$apt_settings/sources.list.d/gramine.list
    local intel_key=$apt_settings/keyrings/intel-sgx.gpg gramine_key=$apt_settings/keyrings/gramine.gpg
    rm -f "$intel_list" "$gramine_list"
    local other
    other=$(grep -lse download.01.org/intel-sgx -e packages.gramineproject.io \
        "$apt_settings"/sources.list "$apt_settings"/sources.list.d/* || true)
    [ -z "$other" ] || fail "other files name the same repositories, perhaps without a key. Remove: ${other//$'\n'/ }"
    apt-get update
    apt-get install -y --no-install-recommends ca-certificates curl gnupg
    fetch_key https://download.01.org/intel-sgx/sgx_repo/ubuntu/intel-sgx-deb.key "$intel_key" 150434D1488BF80308B69398E5C7F0FA1C6C6C3C
    fetch_key "https://packages.gramineproject.io/gramine-keyring-$codename.gpg" "$gramine_key" "${gramine_keys[@]}"
    printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' \
        "$intel_key" https://download.01.org/intel-sgx/sgx_repo/ubuntu "$intel_codename" >"$intel_list"
    printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' \
        "$gramine_key" https://packages.gramineproject.io/ "$codename" >"$gramine_list"
    apt-get update
    apt-get -o Dpkg::Options::=--force-confold install -y --no-install-recommends \
        sgx-aesm-service \
        libsgx-aesm-ecdsa-plugin \
        libsgx-aesm-quote-ex-plugin \
        libsgx-dcap-ql \
        libsgx-dcap-default-qpl \
        libsgx-dcap-quote-verify \
        libsgx-urts \
        gramine
    if ! command -v docker >/dev/null && ! command -v podman >/dev/null; then
        apt-get install -y --no-install-recommends docker.io
    fi
}

configure_quote_provider() {
    local fresh
    fresh=$(mktemp)
    cat >"$fresh" <<'QCNL'
{
  "pccs_url": "https://localhost:8081/sgx/certification/v4/",
  "use_secure_cert": true,
  "pccs_api_version": "3.1",
  "retry_times": 6,
  "retry_delay": 5,
  "pck_cache_expire_hours": 48,
  "verify_collateral_cache_expire_hours": 48,
  "local_cache_only": false
}
QCNL
    if [ -f "$qcnl_file" ] && cmp -s "$fresh" "$qcnl_file"; then
        rm -f "$fresh"
        say "quote provider: $qcnl_file is as it should be"
        return
    fi
    if [ -f "$qcnl_file" ] && [ ! -e "$qcnl_file.before-sealserve" ]; then
        cp -p "$qcnl_file" "$qcnl_file.before-sealserve"
    fi
    install -m 0644 "$fresh" "$qcnl_file"
    rm -f "$fresh"
    say "quote provider: wrote $qcnl_file"
}

allow_user() {
    local user=${SUDO_USER:-} group
    [ -n "$user" ] || return 0
    for group in sgx sgx_prv; do
        if getent group "$group" >/dev/null; then
            usermod -aG "$group" "$user"
            say "user $user is in the group $group from the next login on"
        fi
    done
}

start_services() {
    udevadm trigger --subsystem-match=misc || true
    systemctl enable aesmd
    systemctl restart aesmd
    if [ "$(timedatectl show --property=NTPSynchronized --value 2>/dev/null || echo unknown)" = no ]; then
        timedatectl set-ntp true || say 'the clock is not synchronized: install chrony'
    fi
    local waited=0
    until [ -S "$aesm_socket" ] || [ "$waited" -ge 10 ]; do
        sleep 1
        waited=$((waited + 1))
    done
    [ -S "$aesm_socket" ] || fail "aesmd does not open $aesm_socket: journalctl -u aesmd"
    say 'aesmd runs'
}

main() {
    check_system
    check_sgx
    install_with_apt
    configure_quote_provider
    allow_user
    start_services
    say 'done. Next: sealserve doctor --cloud bare-metal'
}

# At the end, so that half a script does nothing.
main "$@"
