"""`adamas explain script.py`: what Adamas would change in a training script that nobody edited.

    run.py      runs the script as `python script.py` does, then measures and reports
    imports.py  waits until the script imports Keras, TensorFlow or PyTorch
    record.py   what happened in the script: loops, steps, seconds
    replace/    what is put in the place of what, in this process only
    measure/    the same steps and loops afterwards, with and without Adamas, by turns
    report.py   the numbers as text and as JSON

Nothing here is imported by another module of Adamas except the command, and importing it changes nothing.
"""

from adamas.explain.run import explain

__all__ = ["explain"]
