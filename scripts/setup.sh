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
    test) needs_mb=2500; lists=(requirements.txt pyproject.toml) ;;
    *) fail "expected book or test, got $part" ;;
esac

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Any of the three does, and a .venv that is there stays, unless PYTHON names another.
fingerprint="$(cat "${lists[@]}" scripts/setup.sh | cksum) $PWD"
asked=$(version "${PYTHON:-.venv/bin/python}")
[ "$(cat ".venv/ready-$part" 2>/dev/null)" = "$fingerprint $asked" ] && exit 0
if [ "$part" = book ] && [ -f .venv/ready-test ]; then
    needs_mb=100
fi

pythons=(python3.11 python3.12 python3.13 python3)
[ -z "${PYTHON:-}" ] || pythons=("$PYTHON")
for python in "${pythons[@]}" ""; do
    case $(version "$python") in 3.11 | 3.12 | 3.13) break ;; esac
    [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is needed, and '${pythons[*]}' is not one;" \
        "install one, or name it: make $part PYTHON=/path/to/python3.12"
done
free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
[ "${free_mb:-$needs_mb}" -ge "$needs_mb" ] ||
    fail "$needs_mb MB of free disk are needed here, $free_mb MB are left"

# A .venv that was moved here from another folder still points there: make it anew.
[ ! -f .venv/place ] || [ "$(cat .venv/place)" = "$PWD" ] || rm -rf .venv
[ -z "${PYTHON:-}" ] || [ "$(version .venv/bin/python)" = "$asked" ] || rm -rf .venv
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$python" -m venv .venv >/dev/null 2>&1 ||
        fail "'$python -m venv .venv' failed; on Debian and Ubuntu install python$(version "$python")-venv"
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
printf '%s' "$fingerprint $(version .venv/bin/python)" >".venv/ready-$part"
