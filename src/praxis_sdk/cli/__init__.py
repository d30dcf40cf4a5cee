"""The command `praxis`: thin commands over the rooms below.

    main        the entry: streams, errors and exit status, before anything heavy is imported
    app         the list of commands
    run  validate  tools  engines  doctor          one module per command
    exec  jobs  replay  env  artifact              those about jobs
    streams     what goes to stdout, what to stderr      terminal    what a terminal may be shown
    live        output while a tool runs                 interrupts  Ctrl-C and SIGTERM
    failures    errors as one line or one JSON object    logs        structured logging, if wanted
    tables      tables for people                        given       --arg and --args-file
    submit  executions (ps)  execution (show)  execution_logs  ending (cancel, retry)  batch  schedule
    metrics  worker  db  audit                                                     those about executions
    chosen_store  which store is used           control_plane  the store and the coordinator for one command
    own_worker  the worker of a command that waits      worker_plane, worker_service  a worker in the foreground
    following  an execution until its end       exits  the exit status that it means
    submission, documents  from words and files to a submission         execution_ids, batch_records  what ids mean
    metrics_page  /metrics for Prometheus       moments  times as people write them
    capabilities  what the engines here say of themselves
    home        where environments, artifacts and results are
    job_request  from the words of `exec` to a payload      job_run  one job and its live output
    job_report  how it ended, for people                    delivery  artifacts become files

A command module imports what it needs when it is called, so `praxis --help` costs nothing but typer.
"""
