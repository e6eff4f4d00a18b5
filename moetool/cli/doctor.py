"""`moetool doctor`: what this machine has, what this build of llama.cpp can use of it, what is wrong."""

from __future__ import annotations

from moetool.cli.options import Output, OutputOpt


def doctor(output: OutputOpt = Output.text) -> None:
    """Show what this machine has, what this build of llama.cpp can use of it, and what is wrong.

    moetool doctor

    moetool doctor -o json > desk.json; moetool plan model.gguf --machine desk.json
    """
    from moetool.cli.opening import read_this_machine
    from moetool.doctor import examine, read_checks
    from moetool.engine.devices import read_build
    from moetool.hub import read_hub
    from moetool.machine import measure_bandwidth
    from moetool.report.machines import of_doctor

    machine = measure_bandwidth(read_this_machine())
    found = examine(machine, read_build(), read_checks(bool(read_hub().token)))
    if output is Output.json:
        from moetool.cli.boundary import print_result

        print_result("doctor", of_doctor(found))
        return
    from moetool.render.tables import show_doctor

    show_doctor(found)
