#!/usr/bin/env bash
# Compile requirements-book.txt and requirements.txt from the direct dependencies: the two .in files
# and pyproject.toml. Pins that still fit stay; UPGRADE=all or UPGRADE="numpy ruff" moves them.
set -euo pipefail
cd "$(dirname "$0")/.."
# The oldest Python: some packages are needed only there, none only by newer ones.
oldest=$(sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)
command -v "python$oldest" >/dev/null || { echo "lock: python$oldest is needed" >&2; exit 1; }
[ -x .venv-lock/bin/pip-compile ] || "python$oldest" -m venv .venv-lock
.venv-lock/bin/python -m pip install --quiet pip-tools==7.6.2

moved=()
for name in ${UPGRADE:-}; do
    [ "$name" = all ] && moved+=(--upgrade) || moved+=(--upgrade-package "$name")
done
compile() {
    CUSTOM_COMPILE_COMMAND="make lock" .venv-lock/bin/pip-compile "${moved[@]}" --output-file "$@"
    # What an index or a platform decides is no pin: the CPU wheel's label, the packages with CUDA.
    sed -i.bak -E '/^(nvidia-|triton|cuda-)/d; s/^(torch==[^ +]*)\+[a-z0-9.]+ ?/\1 /' "$1"
    rm "$1.bak"
}
compile requirements-book.txt requirements-book.in
compile requirements.txt pyproject.toml requirements.in
