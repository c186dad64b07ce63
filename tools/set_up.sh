#!/usr/bin/env bash
# Creates the virtual environment .venv and lets tools/set_up.py fill it. `make setup` calls this.
# PYTHON=... names the Python to use; else a fitting one is looked for.
set -euo pipefail
cd "$(dirname "$0")/.."

OLDEST=10 NEWEST=13 # Python 3.x
VENV=.venv

fail() {
    echo "error: $*" >&2
    exit 1
}

is_supported() {
    "$1" -c "import sys; sys.exit(not (3, $OLDEST) <= sys.version_info[:2] <= (3, $NEWEST))" 2>/dev/null
}

has_rclpy() {
    "$1" -c "import rclpy" 2>/dev/null
}

find_python() { # a Python that fits; under a sourced ROS 2 the one which that ROS was built for
    local candidate
    for candidate in ${PYTHON:-python3 /usr/bin/python3 python3.12 python3.11 python3.10 python3.13}; do
        if is_supported "$candidate" && { [ -z "${ROS_DISTRO:-}" ] || has_rclpy "$candidate"; }; then
            command -v "$candidate"
            return
        fi
    done
    if [ -n "${ROS_DISTRO:-}" ]; then
        fail "ROS 2 $ROS_DISTRO is sourced, but no Python 3.$OLDEST-3.$NEWEST can import its rclpy; on Debian and Ubuntu: sudo apt install ros-$ROS_DISTRO-rclpy"
    fi
    fail "Python 3.$OLDEST to 3.$NEWEST is needed, found $(${PYTHON:-python3} --version 2>&1 || true); on Debian and Ubuntu: sudo apt install python3 python3-venv"
}

create_venv() { # $1: the Python to use, $2: true where the venv shall see the system's packages
    local version options=()
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$1" -c "import ensurepip, venv" 2>/dev/null || fail "Python cannot make virtual environments; on Debian and Ubuntu: sudo apt install python$version-venv"
    if [ "$2" = true ]; then options+=(--system-site-packages); fi
    echo "creating $VENV with $1 (Python $version)"
    "$1" -m venv --clear "${options[@]}" "$VENV"
}

shared=false
if [ -n "${ROS_DISTRO:-}" ]; then shared=true; fi
if ! is_supported "$VENV/bin/python" || ! grep -q "^include-system-site-packages = $shared" "$VENV/pyvenv.cfg"; then
    python=$(find_python)
    create_venv "$python" "$shared"
fi
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools packaging
exec "$VENV/bin/python" tools/set_up.py
