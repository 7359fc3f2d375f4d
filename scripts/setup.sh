#!/usr/bin/env bash
# Set up .venv for `book` (no torch, no kernel work) or for `test` (everything).
# Does nothing when that was done before with the same requirements; takes up an interrupted set-up.
set -u
cd "$(dirname "$0")/.." || exit 1
part=${1:?book or test}
log=.venv/setup.log

fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

case $part in
    book) needs_mb=600; lists=(requirements-book.txt) ;;
    test) needs_mb=2500; lists=(requirements.txt requirements-book.txt pyproject.toml) ;;
    *) fail "expected book or test, got $part" ;;
esac

fingerprint="$(cat "${lists[@]}" scripts/setup.sh | cksum) $PWD"
[ "$(cat ".venv/ready-$part" 2>/dev/null)" = "$fingerprint" ] && exit 0
if [ "$part" = book ] && [ -f .venv/ready-test ]; then
    needs_mb=100
fi

python=${PYTHON:-python3.11}
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    fail "Python 3.11 is needed and '$python' is not it; install it, or name it: make $part PYTHON=/path/to/python3.11"
free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
[ "${free_mb:-$needs_mb}" -ge "$needs_mb" ] ||
    fail "$needs_mb MB of free disk are needed here, $free_mb MB are left"

# A .venv that was moved here from another folder still points there: make it anew.
[ ! -f .venv/place ] || [ "$(cat .venv/place)" = "$PWD" ] || rm -rf .venv
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 ||
        fail "'$python -m venv .venv' failed; on Debian and Ubuntu install python3.11-venv"
fi
printf '%s' "$PWD" >.venv/place

install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
        --retries 2 --timeout 20 "$@" >>"$log" 2>&1 && return
    if grep -qi 'no space left' "$log"; then
        fail "the disk is full; free some space and run make $part again"
    elif grep -Eqi 'connection|network|name resolution|timed out|no matching distribution|max retries' "$log"; then
        fail "the package index cannot be reached; check the network and run make $part again ($log has the details)"
    fi
    fail "installing failed: $(grep -i error "$log" | head -n 1) ($log has the details)"
}

: >"$log"
echo "setting up .venv for 'make $part' (once) …"
install -r "${lists[0]}"
[ "$part" = book ] || install --no-build-isolation --no-deps -e .
printf '%s' "$fingerprint" >".venv/ready-$part"
