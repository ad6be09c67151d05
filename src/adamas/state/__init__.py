"""The portable optimizer checkpoint: one safetensors file, by parameter name, the same from every framework.

from adamas import state

state.save("optimizer.safetensors", optimizer)      # an optimizer of any adapter
state.load("optimizer.safetensors", optimizer)      # into one of any adapter, in any storage format

contents    `State`: what an optimizer carries from step to step, and what does not fit it
file        the file: whole or not at all, and refused when it was altered; docs/checkpoint.md specifies it
"""

from adamas.state.contents import OPTIONAL, State
from adamas.state.file import FORMAT, VERSION, HasState, TakesState, load, save

__all__ = ["FORMAT", "OPTIONAL", "VERSION", "HasState", "State", "TakesState", "load", "save"]
