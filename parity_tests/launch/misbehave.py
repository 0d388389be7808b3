"""Processes that end in every way: `misbehave.py BACKEND LAST OTHERS FOLDER`; the last process does LAST."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import crosstrain as ct


def act(what: str) -> None:
    if what == "raise":
        raise ValueError("planted")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        sys.exit(7)
    if what == "gather":
        accelerator.gather(np.ones(3))
    if what == "deaf":
        signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        # Sleeps go on after a signal.
        for _ in range(600):
            time.sleep(0.1)
    finally:
        time.sleep(0.3)
        (folder / f"left{accelerator.process_index}").touch()


backend, last, others, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
accelerator = ct.Accelerator(backend)
grandchild = subprocess.Popen(["sleep", "120"])
(folder / f"pids{accelerator.process_index}").write_text(f"{os.getpid()} {grandchild.pid}")
accelerator.wait_for_everyone()
(folder / f"ready{accelerator.process_index}").touch()
act(last if accelerator.is_last_process else others)
