#!/usr/bin/env bash
# Prepares a TDX guest for remote attestation through configfs-tsm: A machine of your own.
# Rendered by `sealserve cloud setup bare-metal --tee tdx`. Read it, then run it as root, in the guest. It can be run again.
set -eu -o pipefail
umask 022

cpuinfo=/proc/cpuinfo
configfs=/sys/kernel/config
modules=/etc/modules-load.d
register=/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

main() {
    [ "$(id -u)" -eq 0 ] || fail 'this must be run as root: sudo bash SCRIPT'
    say 'note: The machine is then the host of your TDX guests. Its own setup (KVM, quote generation service) is not sealserve'"'"'s matter. In the guest, sealserve cloud setup bare-metal --tee tdx applies.'
    grep -qw tdx_guest "$cpuinfo" || fail 'this is no TDX guest, or its kernel does not know TDX'
    local release
    release=$(uname -r)
    if [ "$(printf '6.16\n%s\n' "$release" | sort -V | head -n 1)" != 6.16 ]; then
        fail "kernel $release does not let replicas extend RTMR 3: 6.16 or later is needed"
    fi
    printf 'tdx_guest\n' >"$modules/sealserve-tdx.conf"
    modprobe tdx_guest || fail 'the kernel lacks the module tdx_guest (CONFIG_TDX_GUEST_DRIVER)'
    mountpoint -q "$configfs" || mount -t configfs configfs "$configfs"
    [ -d "$configfs/tsm/report" ] || fail "there is no $configfs/tsm/report: the kernel lacks CONFIG_TSM_REPORTS"
    local entry=$configfs/tsm/report/sealserve-setup provider
    rmdir "$entry" 2>/dev/null || true
    mkdir "$entry"
    provider=$(cat "$entry/provider" || true)
    rmdir "$entry"
    [ "$provider" = tdx_guest ] || fail "reports come from '$provider' and not from tdx_guest"
    say 'quotes can be gathered through configfs-tsm'
    [ -e "$register" ] || fail "there is no $register: the kernel lacks CONFIG_TSM_MEASUREMENTS"
    if [ "$(timedatectl show --property=NTPSynchronized --value 2>/dev/null || echo unknown)" = no ]; then
        timedatectl set-ntp true || say 'the clock is not synchronized: install chrony'
    fi
    say 'done. Next: sealserve doctor --cloud bare-metal --tee tdx'
}

# At the end, so that half a script does nothing.
main "$@"
