"""Predicted prompt and decode speed, with an interval and what it rests on. Pure: no clock, disk or device.

Decoding one token moves bytes: every weight that is used and every cached key and value is read once,
so seconds = bytes ÷ (bandwidth × what the kernels reach of it) + a fixed cost per layer. Reading a prompt
multiplies matrices: seconds = operations ÷ throughput, and weights travel once per batch, not per token.

What is moved is a `Work` (made from anatomy, settings and placement); how fast it moves is a list of
`Lane`s (made from the machine). `predict_work` needs only these two, so constants can be fitted and
tested without any header. The constants and their sources are in data/speed.json (scripts/fit_speed.py).
"""

from moetool.speed.anatomical import Where, make_work
from moetool.speed.calibration import Calibration, Target, calibrate, weigh
from moetool.speed.constants import Constants, KernelConstants, load_constants, parse_constants
from moetool.speed.forecast import make_target, predict_speed
from moetool.speed.lanes import Lane, lane_kind, make_lanes
from moetool.speed.predict import Load, Speed, predict_work
from moetool.speed.work import Cache, DeviceWork, Read, Work

__all__ = [
    "Cache",
    "Calibration",
    "Constants",
    "DeviceWork",
    "KernelConstants",
    "Lane",
    "Load",
    "Read",
    "Speed",
    "Target",
    "Where",
    "Work",
    "calibrate",
    "lane_kind",
    "load_constants",
    "make_lanes",
    "make_target",
    "make_work",
    "parse_constants",
    "predict_speed",
    "predict_work",
    "weigh",
]
