"""Python in a process of its own, for what cannot be tried in this one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_python(code: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter with this one's environment and these variables over it."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(code: str, timeout: float = 120, **environment: str) -> str:
    """What `code` prints. It must end well."""
    done = run_python(code, timeout, **environment)
    if done.returncode != 0:
        raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()
