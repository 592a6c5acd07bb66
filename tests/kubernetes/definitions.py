"""The part of Kubernetes' API server that serves CustomResourceDefinitions, with its etcd, on this machine.

It lives in a network namespace with an address of its own (`NODE`), reached from outside by a cable. Its program is
built by `binaries.sh`; etcd is Debian's.

Promise: `stop` ends every process that was started here and removes what was made, and touches nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.servers.process import Server

SPACE = "eagleray-kube"
CABLE = "ekube0"
HOST, NODE = "10.77.0.2", "10.77.0.1"
READY_S = 240.0
REQUEST_S = 300  # a definition is a megabyte, which a busy machine takes minutes to check
PROGRAM = "apiextensions-apiserver"
TOOLS = ("etcd", "openssl", "kubectl", "ip", "nsenter")


def cache() -> Path:
    """Where programs are kept: `EAGLERAY_KUBERNETES`, or below the user's cache directory."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EAGLERAY_KUBERNETES") or base / "eagleray-kubernetes")


def missing() -> str:
    """Why it cannot run here; empty where it can."""
    if os.getuid() != 0:
        return "namespaces are made by root alone"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"no {absent[0]} here"
    if not (cache() / "bin" / PROGRAM).exists():
        return f"no {PROGRAM} in {cache() / 'bin'}: tests/kubernetes/binaries.sh builds it"
    return ""


def _run(*words: str, cwd: Path | None = None) -> None:
    subprocess.run(words, check=True, capture_output=True, cwd=cwd)


class Definitions:
    """The server, with its files in `directory`; nothing runs until `start`."""

    def __init__(self, directory: Path) -> None:
        """Makes the namespace and the certificates."""
        self.directory = directory
        self.pki = directory / "pki"
        self.pki.mkdir(parents=True)
        self._servers: list[Server] = []
        self._network()
        self._certificates()

    def _network(self) -> None:
        _run("ip", "netns", "add", SPACE)
        _run("ip", "link", "add", CABLE, "type", "veth", "peer", "name", "node0", "netns", SPACE)
        _run("ip", "addr", "add", f"{HOST}/24", "dev", CABLE)
        _run("ip", "link", "set", CABLE, "up")
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{NODE}/24", "dev", "node0"],
                      ["link", "set", "node0", "up"], ["route", "add", "default", "via", HOST]):  # fmt: skip
            _run("ip", "-n", SPACE, *words)

    def _certificates(self) -> None:
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days",
                      "30", "-subj", "/CN=test-ca")  # fmt: skip
        self._certificate("apiserver", "/CN=kube-apiserver", f"subjectAltName=IP:{NODE}")
        self._certificate("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth")
        config = ["kubectl", "config", f"--kubeconfig={self.pki}/admin.conf"]
        for words in (
            ["set-cluster", "test", f"--server=https://{NODE}:6443", f"--certificate-authority={self.pki}/ca.crt"],
            ["set-credentials", "admin", f"--client-certificate={self.pki}/admin.crt",
             f"--client-key={self.pki}/admin.key"],
            ["set-context", "test", "--cluster=test", "--user=admin"],
            ["use-context", "test"],
        ):  # fmt: skip
            _run(*config, *words)

    def _certificate(self, name: str, subject: str, extension: str) -> None:
        (self.pki / f"{name}.ext").write_text(extension)
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
                      subject)  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "30", "-out", f"{name}.crt", "-extfile", f"{name}.ext")  # fmt: skip

    def _openssl(self, *words: str) -> None:
        _run("openssl", *words, cwd=self.pki)

    def _start(self, name: str, port: int, *words: str) -> None:
        command = ["nsenter", f"--net=/run/netns/{SPACE}", *words]
        server = Server(command, port, self.directory / f"{name}.log", host=NODE)
        self._servers.append(server)
        server.start()

    def start(self) -> None:
        """Start etcd and the server, until it answers."""
        pki, itself = self.pki, f"{self.pki}/admin.conf"  # what it would ask another API server, it asks itself
        self._start("etcd", 2379, "etcd", "--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync",
                    "--logger=zap", f"--listen-client-urls=http://{NODE}:2379",
                    f"--advertise-client-urls=http://{NODE}:2379", f"--listen-peer-urls=http://{NODE}:2380",
                    f"--initial-advertise-peer-urls=http://{NODE}:2380",
                    f"--initial-cluster=default=http://{NODE}:2380")  # fmt: skip
        absent = "NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ValidatingAdmissionPolicy"
        self._start(
            "definitions", 6443, f"{cache()}/bin/{PROGRAM}", f"--etcd-servers=http://{NODE}:2379",
            f"--bind-address={NODE}", "--secure-port=6443", f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key", f"--client-ca-file={pki}/ca.crt", f"--kubeconfig={itself}",
            f"--authentication-kubeconfig={itself}", "--authentication-skip-lookup",
            f"--authorization-kubeconfig={itself}", f"--disable-admission-plugins={absent}",
            "--enable-priority-and-fairness=false", f"--request-timeout={REQUEST_S}s",
        )  # fmt: skip

    def apply(self, path: str, document: Any, **options: str) -> dict[str, Any]:
        """What the server makes of an object at `path`, applied server-side; raises AssertionError with its refusal."""
        query = urlencode({"fieldManager": "test", "fieldValidation": "Strict", "force": "true", **options})
        return self.ask("PATCH", f"{path}?{query}", document, "application/apply-patch+yaml")

    def ask(self, method: str, path: str, document: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """Its answer; raises AssertionError with its refusal."""
        body = None if document is None else json.dumps(document).encode()
        url = f"https://{NODE}:6443{path}"
        request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        try:
            with urllib.request.urlopen(request, context=context, timeout=REQUEST_S) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{path}: {json.load(refusal)['message']}") from None
        return found

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until `true()`; raises AssertionError."""
        deadline = time.monotonic() + READY_S
        while not true():
            assert time.monotonic() < deadline, f"not within {READY_S:g} s: {what}"
            time.sleep(0.5)

    def stop(self) -> None:
        """End everything."""
        for server in reversed(self._servers):
            server.kill()
        for words in (["netns", "del", SPACE], ["link", "del", CABLE]):
            subprocess.run(["ip", *words], capture_output=True)
