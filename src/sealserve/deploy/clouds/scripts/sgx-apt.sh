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
    local -a gramine_keys=(@@gramine_fingerprints_2024@@)
    case $codename in
        jammy) gramine_keys=(@@gramine_fingerprint_2021@@) ;;
        # Intel has no repository for Debian 12; Gramine's instructions take the one for Ubuntu 22.04.
        bookworm) gramine_keys=(@@gramine_fingerprint_2021@@) intel_codename=jammy ;;
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
    fetch_key @@intel_key@@ "$intel_key" @@intel_fingerprint@@
    fetch_key "@@gramine_repository@@gramine-keyring-$codename.gpg" "$gramine_key" "${gramine_keys[@]}"
    printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' \
        "$intel_key" @@intel_repository@@ "$intel_codename" >"$intel_list"
    printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' \
        "$gramine_key" @@gramine_repository@@ "$codename" >"$gramine_list"
    apt-get update
    apt-get -o Dpkg::Options::=--force-confold install -y --no-install-recommends \
        @@apt_packages@@
    if ! command -v docker >/dev/null && ! command -v podman >/dev/null; then
        apt-get install -y --no-install-recommends docker.io
    fi
}
