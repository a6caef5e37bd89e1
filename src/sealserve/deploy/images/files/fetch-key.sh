#!/bin/sh
# fetch-key.sh URL FILE FINGERPRINT...: fetch the keys of a package repository, and keep them if all are expected ones.
set -eu
url=$1
file=$2
shift 2
curl -fsSL --proto '=https' -o "$file" "$url"
found=$(gpg --batch --quiet --with-colons --show-keys "$file" | awk -F: '$1 == "pub" { pub = 1 } $1 == "fpr" && pub { print $10; pub = 0 }')
[ -n "$found" ] || { echo "$url has no keys" >&2; exit 1; }
for fingerprint in $found; do
    case " $* " in
        *" $fingerprint "*) ;;
        *)
            echo "$url has a key that is none of the expected ones: $fingerprint" >&2
            rm -f "$file"
            exit 1
            ;;
    esac
done
