"""What is trained: mask laws, networks, the dropout problem and its discrete iteration."""
