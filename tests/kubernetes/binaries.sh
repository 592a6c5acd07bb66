#!/usr/bin/env bash
# The part of Kubernetes' API server that serves CustomResourceDefinitions, built from the Go module proxy into CACHE/bin:
# once, some ten minutes. What is there already is not built again.
#
#   tests/kubernetes/binaries.sh CACHE
set -euo pipefail
cache=${1:?where the programs go}
kubernetes=v0.34.4 # of Kubernetes 1.34.4
program=apiextensions-apiserver
[ -x "$cache/bin/$program" ] && exit
command -v go >/dev/null || { echo "there is no go here" >&2; exit 1; }
mkdir -p "$cache/bin" "$cache/definitions"
cd "$cache/definitions"
[ -e go.mod ] || printf 'module build\n\ngo 1.24\n' >go.mod
go get "k8s.io/$program@$kubernetes"
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$cache/bin/.$program" "k8s.io/$program"
mv "$cache/bin/.$program" "$cache/bin/$program"
