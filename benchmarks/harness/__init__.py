"""What all benchmarks share: the setting, clocks, memory, processes, tables, plots and data sheets."""
