install_with_dnf() {
    local repository=@@rpm_repository@@
    if [ -n "$repository" ]; then
        dnf install -y dnf-plugins-core
        dnf config-manager --add-repo "$repository"
    fi
    # Signatures are asked for whatever a repository file says: unsigned packages end the script here.
    dnf --setopt='*.gpgcheck=1' install -y \
        @@rpm_packages@@
    say 'Gramine is not installed on this system: it comes with the image of the replica'
    if ! command -v docker >/dev/null && ! command -v podman >/dev/null; then
        say 'no container engine is there: install docker or podman'
    fi
}
