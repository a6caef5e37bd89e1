trust_pccs_authority() {
    local pem
    pem=$(
        cat <<'PEM'
@@pccs_ca@@
PEM
    )
    if [ -d /usr/local/share/ca-certificates ]; then
        printf '%s\n' "$pem" >/usr/local/share/ca-certificates/sealserve-pccs.crt
        update-ca-certificates
    else
        printf '%s\n' "$pem" >/etc/pki/ca-trust/source/anchors/sealserve-pccs.crt
        update-ca-trust
    fi
    say 'the authority of the PCCS is trusted'
}
