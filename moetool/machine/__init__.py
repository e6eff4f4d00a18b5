"""The machine as a value: devices, memory, cores, disk. `read_*` touches the world, `parse_*` is pure.

`read_machine` looks, cheaply, at every start; `measure_bandwidth` works for a second, and only when asked.
"""

from moetool.machine.bandwidth import known_bandwidth, measure_bandwidth
from moetool.machine.detect import read_machine
from moetool.machine.record import Device, Machine, parse_machine, read_machine_file, to_json

__all__ = [
    "Device",
    "Machine",
    "known_bandwidth",
    "measure_bandwidth",
    "parse_machine",
    "read_machine",
    "read_machine_file",
    "to_json",
]
