"""Says which files of jobs/ are broken, once `up` is ready. They stop nothing: neither the stream nor the other jobs.

Files are read in a process of their own, for users' Python may hang, exit or crash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from eagleray.cluster.child_process import Channel, Child
from eagleray.cluster.config import Config

READ_S = 120.0


class BrokenJobs:
    """Asks a child what is broken, and tells it line by line."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        """Nothing is started yet."""
        self._config = config
        self._say = say

    def begin(self) -> None:
        """Begin, and do not wait; without a folder there is nothing to read."""
        if self._config.jobs_folder.is_dir():
            threading.Thread(target=self._tell, name="broken-jobs", daemon=True).start()

    def _tell(self) -> None:
        child = Child(__name__)
        try:
            child.send(self._config)
            for problem in child.receive(time.monotonic() + READ_S):
                self._say(f"{problem}; the job is left out, all else runs")
        except TimeoutError:
            self._say(f"{self._config.jobs_folder} could not be read within {READ_S:g} s; see the log of the scheduler")
        except (EOFError, OSError):
            self._say(f"reading {self._config.jobs_folder} ended a process: a file in it exits or crashes")
        finally:
            child.end()


def main() -> None:
    """The child: read the project, answer with what is broken."""
    channel = Channel()
    config: Config = channel.receive()
    channel.listen(lambda _: None)  # for the parent's end
    from eagleray.jobs.project.load import read_project

    channel.send([str(one.error) for one in read_project(config).broken])


if __name__ == "__main__":
    main()
