"""The commands that a device needs, without what paints them: build, run, inspect, doctor.

    build, run, inspect, doctor     a command each: a function of a `Terminal` and its options
    recording                       what `run` does: predicts every frame, draws and writes
    options                         the texts of options, and their meaning
    terminal, progress, tables      what commands write, in plain text
    failures, running               what an error means, and how a command ends

`python -m edgeseg_runtime` reads the command line with argparse. The workstation's `edgeseg` calls the
same functions, and puts a terminal in that has colours and bars.
"""
