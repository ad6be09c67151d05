"""The peers: one module a framework, each with `step(shapes)` and, where it trains, `fit(width, epochs)`."""
