#!/usr/bin/env bash
# Makes .venv in the checkout and installs exactly what constraints.txt pins, with compiled bytecode.
#
# Does nothing when it was done already: .venv/.setup-done holds the hash of everything that decides the result.
# PYTHON names the interpreter (default python3.11). As root on Debian or Ubuntu it also installs the few system
# programs that transfers and tests use; no service is started by that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3.11}"
VENV=.venv
STAMP="$VENV/.setup-done"
unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONHOME PYTHONPATH

say() { printf 'setup: %s\n' "$*"; }

# Pairs of program and Debian package; sshd and initdb live outside an ordinary PATH. More pairs come as arguments:
# what only the slow suites need is installed when they are run.
missing_packages() {
    local path pair
    path="$PATH:/usr/sbin:/sbin:$(printf '%s:' /usr/lib/postgresql/*/bin)"
    for pair in "$@" rsync:rsync sshd:openssh-server ssh:openssh-client ip:iproute2 sqlite3:sqlite3 \
        curl:curl aria2c:aria2 nginx:nginx-light strace:strace ps:procps mkfs.ext4:e2fsprogs; do
        PATH="$path" type -P "${pair%%:*}" >/dev/null || printf '%s\n' "${pair##*:}"
    done
}

# Debian starts a service as soon as its package is installed; 101 from this file forbids it.
apt_install() (
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null
    apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
)

system_packages() {
    local packages
    mapfile -t packages < <(missing_packages "$@")
    [ "${#packages[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing ${packages[*]}"
        apt_install "${packages[@]}" || say "apt-get failed; install by hand: ${packages[*]}" >&2
    else
        say "missing programs; as root run: apt-get install ${packages[*]}" >&2
    fi
}

wanted() {
    cat pyproject.toml constraints.txt deploy/setup.sh | sha256sum | cut -d' ' -f1
    command -v "$PYTHON" || true
    pwd
}

system_packages "$@"

want="$(wanted)"
if [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && [ "$(<"$STAMP")" = "$want" ]; then
    exit 0
fi

if ! command -v "$PYTHON" >/dev/null; then
    say "$PYTHON is not installed; set PYTHON to a Python 3.11 or newer" >&2
    exit 1
fi
rm -f "$STAMP"
# A copied checkout brings a .venv whose programs point elsewhere; that one, and one of another Python, is made anew.
if ! grep -qF "$PWD/$VENV" "$VENV/bin/activate" 2>/dev/null || [ "$("$VENV/bin/python" -V)" != "$("$PYTHON" -V)" ]; then
    say "creating $VENV with $("$PYTHON" -V)"
    "$PYTHON" -m venv --clear "$VENV"
fi

pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input)
backend=(hatchling editables)
say "installing the packages of constraints.txt (a minute or two)"
# The build backend first, and from the same list: an isolated build would fetch the newest one each time.
"${pip[@]}" install -qq --no-compile -c constraints.txt "${backend[@]}"
"${pip[@]}" install -qq --no-compile --no-build-isolation -c constraints.txt -e '.[dev]'
# pip compiles on one core; a few packages ship templates that are no Python, hence the tolerance.
say "compiling bytecode"
"$VENV/bin/python" -m compileall -qq -j 0 "$VENV/lib" || true
printf '%s\n' "$want" >"$STAMP"
say "done"
