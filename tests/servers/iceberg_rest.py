"""Iceberg's own REST catalog (its test server), tables on an S3 server, its store a SQLite file."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from tests.servers.installed import maven_libraries
from tests.servers.process import Server, free_port, running
from tests.servers.s3 import S3Server

VERSION = "1.10.1"
POM = Path(__file__).parent / "iceberg-rest.pom.xml"


def missing() -> str:
    """Why there can be no server here; empty where there can."""
    return "" if shutil.which("java") and shutil.which("mvn") else "no java or mvn here"


def rest_server(directory: Path, s3: S3Server, warehouse: str) -> AbstractContextManager[Server]:
    """A running server; ended whatever happens inside."""
    directory.mkdir(parents=True, exist_ok=True)
    libraries = maven_libraries(f"iceberg-rest-{VERSION}", POM)
    port = free_port()
    environ = {
        **s3.keys,
        "AWS_REGION": "us-east-1",
        "CATALOG_CATALOG__IMPL": "org.apache.iceberg.jdbc.JdbcCatalog",
        "CATALOG_URI": f"jdbc:sqlite:{directory / 'catalog.db'}",
        "CATALOG_JDBC_SCHEMA__VERSION": "V1",
        "CATALOG_WAREHOUSE": warehouse,
        "CATALOG_IO__IMPL": "org.apache.iceberg.aws.s3.S3FileIO",
        "CATALOG_S3_ENDPOINT": s3.url,
        "CATALOG_S3_PATH__STYLE__ACCESS": "true",
        "CATALOG_REST_PORT": str(port),
    }
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    command = ["java", "-Xmx384m", quiet, "-cp", f"{libraries}/*", "org.apache.iceberg.rest.RESTCatalogServer"]
    return running(Server(command, port, directory / "rest.log", environ))
