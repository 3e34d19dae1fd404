"""Room `docs`: numbers, tables and code excerpts written into Markdown, and their check.

- `render`: the command and the order of its steps; its docstring is the writer's manual.
- `markers`: finds markers in a page and replaces what stands between them.
- `figures`: one number, or a table of them, from results files.
- `excerpts`: the source of one symbol.
- `links`: relative links and anchors that lead nowhere.
"""
