"""The `mlim` command: one subcommand per step, one module per group of commands; `main` puts them together."""
