"""The vault: the true tokens of every client and round, out of band.

Clients write (:mod:`fedsim.vault.writer`), the lab reads (:mod:`fedsim.vault.reader`); attacks and
the server can import neither.
"""
