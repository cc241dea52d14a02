"""What a run and an attack leave on disk: every path and every schema."""
