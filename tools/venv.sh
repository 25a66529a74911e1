#!/usr/bin/env bash
# Make the virtual environment $1, or say what is missing. Installs Debian's package `venv` when run as root.
set -euo pipefail
where=$1
[ -x "$where/bin/python" ] && "$where/bin/python" -m pip --version >/dev/null 2>&1 && exit 0

find_python() {
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        # A shim of a version manager may be there and not work.
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name" && return
        fi
    done
    echo "Python 3.11 or later is needed and was not found." >&2
    echo "Install it (Debian, Ubuntu: apt-get install -y python3 python3-venv; macOS: brew install python)," >&2
    echo "or name one:  make setup PYTHON=/path/to/python3" >&2
    return 1
}

python=$(find_python)
rm -rf "$where"
"$python" -m venv "$where" >/dev/null && exit 0
# Debian's Python comes without the module that puts pip into a new environment.
rm -rf "$where"
version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >&2 || true
    apt-get install -y -q --no-install-recommends "$version" >&2 || apt-get install -y -q python3-venv >&2 || true
    "$python" -m venv "$where" && exit 0
    rm -rf "$where"
fi
echo "$python cannot make a virtual environment (see above)." >&2
echo "Debian, Ubuntu: apt-get install -y $version" >&2
exit 1
