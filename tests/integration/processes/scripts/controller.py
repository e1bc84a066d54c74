"""FOLDER SERVERS WORKERS: a controller in a process of its own, until it is killed."""

import signal
import sys

from ps.config import RunConfig
from ps.control.service import ControlServer
from tests.integration.processes.stage import say

control = ControlServer(RunConfig(servers=int(sys.argv[2]), workers=int(sys.argv[3]), optimizer="add", timeout_s=20.0))
say("controller", control.start(), control.job.hex())
signal.pause()
