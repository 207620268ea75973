"""What runs have reached: a page with curves beside the paper's errors, and a table. Reads what training wrote."""
