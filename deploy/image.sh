#!/bin/sh
# Fills the image: /opt/eagleray gets Python's packages from requirements.lock (each file compared with its hash), this
# package as a wheel, the benchmarks, and a bill of materials. Run by deploy/Dockerfile and by tests/kubernetes, which
# has no container engine: both images come from these steps.
#
#   deploy/image.sh SOURCE TARGET
#
# SOURCE is a copy of the repository, TARGET the directory that becomes /opt/eagleray. EXTRAS names the extras of
# pyproject.toml to install, such as "kafka s3 postgres daft". Needs Python 3.11 to 3.13 with
# venv, a C compiler, and a package index.
set -eu
source=$1 target=$2
python=${PYTHON:-python3}
extras=
for extra in ${EXTRAS:-kafka s3 postgres jwt otlp lineage}; do extras="$extras --extra $extra"; done
cd "$source"

# 1. uv, at the version and hash of the lock: a tool of the build, no part of the image
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"$python" -m venv "$build/uv"
awk '/^[^ ]/ { mine = /^uv==/ } mine' requirements.lock >"$build/uv.lock"
"$build/uv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$build/uv.lock"
uv() { "$build/uv/bin/uv" "$@"; }

# 2. what the package needs: pyproject.toml says which packages, the lock says which versions and files
uv venv --quiet --python "$python" "$target"
# shellcheck disable=SC2086  # the extras are words
uv pip install --quiet --compile-bytecode --python "$target/bin/python" --require-hashes \
    -r pyproject.toml $extras -c requirements.lock

# 3. the package itself, with its library in C
uv venv --quiet --python "$python" "$build/wheel"
awk '/^[^ ]/ { mine = /^setuptools==/ } mine' requirements.lock >"$build/setuptools.lock"
uv pip install --quiet --python "$build/wheel/bin/python" --require-hashes -r "$build/setuptools.lock"
uv build --quiet --wheel --no-build-isolation --python "$build/wheel/bin/python" --out-dir "$build/dist" .
uv pip install --quiet --compile-bytecode --no-deps --python "$target/bin/python" "$build"/dist/eagleray-*.whl
ls "$target"/lib/python3.*/site-packages/eagleray/cluster/events/_columnar.*.so >/dev/null  # the fast path is in it

# 4. the benchmarks, which ask a platform that runs
mkdir -p "$target/share"
cp -r benchmarks "$target/share/benchmarks"

# 5. what is in it, with versions and licences (CycloneDX), by the tools of `make sbom`
uv venv --quiet --python "$python" "$build/audit"
uv pip install --quiet --require-hashes --python "$build/audit/bin/python" -r requirements-audit.lock
"$target/bin/python" .ci/audit.py --tools "$build/audit/bin" --sbom "$target/share/sbom.cdx.json"
