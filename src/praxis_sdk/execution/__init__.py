"""Tool contracts and the engines that run them (spec 1 and 2).

    contract file --load--> ToolContract --prepare(args)--> Invocation --engine.run--> ToolOutcome

`loading` reads YAML, `arguments` checks and delivers what the caller gave, `invocation` is the
engine-neutral plan of one run, `engines/` has one module per engine, `selection` decides (purely)
which engine may run a contract, `runner` puts it together.
"""
