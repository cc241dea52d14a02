"""A process that attacks run in, and nothing else: it has captures, and never had the truth.

A process imports torch, transformers and the attacks once, then forks a worker whenever it is asked
for one (:mod:`attacks.worker.forking`). It was started afresh, not forked, so what the one who asks
has in memory was never in its own. A worker gets tasks (:mod:`attacks.worker.task`) over a socket,
with tensors in memory that it maps as its own copy, and answers in JSON.
"""
