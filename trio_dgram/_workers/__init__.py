"""Worker processes: the supervisor that opens their sockets, starts them and keeps them running.

It imports what services share and the layers below. The worker's side is in ``_services/worker_process.py`` and
``_kernel/passed_sockets.py``, which know no supervisor.
"""
