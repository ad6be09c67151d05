"""What the tests share: naive twins of the peers' formulas, error bounds, problems, floating-point modes."""
