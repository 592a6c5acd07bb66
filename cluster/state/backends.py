"""Opens the state that the configuration names. Every process that keeps state opens its own."""

from __future__ import annotations

from collections.abc import Callable

from eagleray.cluster.config import Config
from eagleray.cluster.errors import ConfigError
from eagleray.cluster.state.files import FilesState
from eagleray.cluster.state.protocol import State

ATTEMPTS = 2  # of a request on the store: who keeps state tries again by itself, and must not be held up for long
CONNECT_S = "2"
ANSWER_S = "5"


def open_state(config: Config, beat: Callable[[], object] = lambda: None) -> State:
    """The state of a project; nothing is connected yet. Raises ConfigError where a library is missing.

    `beat` is called around each request, which may take seconds while a server is away.
    """
    if config.state.backend == "embedded":
        return FilesState(config.state_dir, config.data_dir)
    try:
        from eagleray.cluster.lake.s3_store import S3Store, properties
        from eagleray.cluster.state.shared import SharedState

        bounds = {
            "eagleray.s3.attempts": str(ATTEMPTS),
            "s3.connect-timeout": CONNECT_S,
            "s3.request-timeout": ANSWER_S,
        }
        store = S3Store({**properties(config), **bounds})
        return SharedState(config.state_database, store, config.warehouse, config.state_dir, beat)
    except ImportError as error:
        problem = f"{error}; shared state needs `pip install 'eagleray[postgres,s3]'`"
        raise ConfigError(f"{config.file}: state.backend", problem) from error
