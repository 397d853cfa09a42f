#!/usr/bin/env bash
# Makes this machine ready for `make`:  tools/setup.sh bench|test|dev
#
# Python's virtual environment in .venv, this package with one of its extras at the versions of
# constraints.txt, and the system libraries that drawing off screen needs. What is ready already is left
# alone; what an earlier call left unfinished is built anew. Environment: PYTHON, PIP_ARGS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
extras=(bench test dev) # each contains the ones before it, as in setup.cfg
gl_packages=(libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libopengl0)
oldest="3.10"

say() { printf '==> %s\n' "$*"; }
fail() {
    printf '\nset-up stopped: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '    %s\n' "$@" >&2
    exit 1
}

# ---------------------------------------------------------------- system packages

as_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_use_apt() {
    command -v apt-get >/dev/null || return 1
    [[ $(id -u) == 0 ]] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# Installs Debian packages where that is allowed; returns 1 where it is not, or where it fails.
apt_install() {
    may_use_apt || return 1
    say "installing system packages: $*"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o DPkg::Lock::Timeout=120)
    as_root "${apt[@]}" update </dev/null || say "apt-get update failed; trying with the lists as they are"
    as_root "${apt[@]}" install --no-install-recommends "$@" </dev/null >/dev/null
}

advise_apt() {
    if command -v apt-get >/dev/null; then
        printf 'sudo apt-get update && sudo apt-get install %s\n' "$*"
    else
        printf 'the counterparts of these Debian packages on your system: %s\n' "$*"
    fi
}

# ---------------------------------------------------------------- Python

new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < (${oldest/./, }))" 2>/dev/null
}

# Prints the interpreter to build .venv with: $PYTHON, else python3, else the newest that is installed.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Debian ships the standard library's venv in a package of its own.
venv_package() {
    if [[ $1 == /usr/bin/* || $1 == /bin/* ]]; then
        "$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
    else
        echo python3-venv
    fi
}

ensure_python() {
    python=$(find_python) || {
        [[ -z ${PYTHON:-} ]] || fail "PYTHON=$PYTHON is not a Python $oldest or newer."
        apt_install python3 python3-venv || true
        python=$(find_python) || fail "Python $oldest or newer is needed and none was found. Install it:" \
            "$(advise_apt python3 python3-venv)" "or name one: make PYTHON=/path/to/python3.12 ..."
    }
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    local package
    package=$(venv_package "$python")
    apt_install "$package" || true
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments. Install its venv module:" "$(advise_apt "$package")"
}

venv_is_sound() {
    [[ ! -e $venv/unfinished ]] && new_enough "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null
}

ensure_venv() {
    venv_is_sound && return
    ensure_python
    [[ ! -e $venv ]] || say "$venv is incomplete; building it anew"
    say "creating $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv" || fail "could not create $PWD/$venv with $python (see above)."
}

# ---------------------------------------------------------------- this package

# Changes with all that an installation depends on, the place of the checkout included.
key() {
    { cat setup.cfg pyproject.toml constraints.txt && pwd -P && "$venv/bin/python" -VV; } | sha256sum | cut -d' ' -f1
}

# Whether this extra, or one that contains it, is installed.
is_installed() {
    local wanted=$1 now extra seen=no
    now=$(key)
    for extra in "${extras[@]}"; do
        [[ $extra != "$wanted" ]] || seen=yes
        [[ $seen == yes && -f $venv/ready-$extra && $(<"$venv/ready-$extra") == "$now" ]] && return
    done
    return 1
}

ensure_package() {
    local extra=$1 quiet=()
    is_installed "$extra" && return
    [[ -t 1 ]] || quiet=(--quiet)
    say "installing the package with its '$extra' extra (minutes the first time)"
    touch "$venv/unfinished"
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    "$venv/bin/python" -m pip install --disable-pip-version-check "${quiet[@]}" ${PIP_ARGS:-} \
        --constraint constraints.txt --editable ".[$extra]" </dev/null ||
        fail "pip could not install the package (see above)." \
            "Without a network, or behind a mirror, see docs/installation.md; the next call starts afresh."
    key >"$venv/ready-$extra"
    rm "$venv/unfinished"
}

# ---------------------------------------------------------------- drawing

ensure_gl() {
    "$venv/bin/python" tools/check_gl.py 2>/dev/null && return
    apt_install "${gl_packages[@]}" || true
    "$venv/bin/python" tools/check_gl.py && return
    fail "this machine cannot draw off screen (reasons above). Install Mesa's software renderer:" \
        "$(advise_apt "${gl_packages[@]}")" "and see 'Drawing without a screen' in docs/installation.md."
}

main() {
    local extra=${1:-}
    [[ " ${extras[*]} " == *" $extra "* && -n $extra ]] || fail "usage: tools/setup.sh EXTRA, where EXTRA is one of: ${extras[*]}"
    # Two calls at once must not install into each other; util-linux's flock is on every Debian and Ubuntu.
    exec 9<setup.cfg
    ! command -v flock >/dev/null || flock 9
    ensure_venv
    ensure_package "$extra"
    ensure_gl
}

main "$@"
