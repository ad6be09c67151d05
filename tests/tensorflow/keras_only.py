"""Where Adamas is not installed: load every `.keras` file in a folder with Keras, take steps, write what came out.

python keras_only.py FOLDER     beside each NAME.keras appears NAME.npz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


class Absent:
    """Makes `import adamas` fail as it does where the package is not installed."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "adamas":
            raise ModuleNotFoundError(f"No module named {name!r}")


def main(folder: Path) -> None:
    import keras
    import numpy as np
    from continuing import go_on, state, steps, weights

    for file in sorted(folder.glob("*.keras")):
        model = keras.models.load_model(file)
        loaded = state(model.optimizer)
        moved = go_on(model, steps(seed=2))
        arrays = {"loaded": loaded, "moved": moved, "weights": weights(model), "state": state(model.optimizer)}
        named = {f"{what}-{i:03}": array for what, found in arrays.items() for i, array in enumerate(found)}
        np.savez(file.with_suffix(".npz"), **named, optimizer=type(model.optimizer).__module__)
    assert "adamas" not in sys.modules


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    main(Path(sys.argv[1]))
