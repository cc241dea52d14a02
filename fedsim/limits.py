"""How large what a file says may be: beyond that it was made to break, or broke by itself."""

DEEPEST = 64
"""Tables and lists within one another; a config has 6, and Python itself ends near 1,000."""

INTEGER = 2**63 - 1
"""TOML's integers have 64 bits, and so have seeds and the sizes of tensors."""

PARTS = 2**20
"""Tables and lists in one JSON value, which take more memory than room on disk."""

CONFIG_BYTES = 2**20
"""Of a config, a policy or a template; the largest of ours has 3 kB."""

DATA_BYTES = 2**30
"""Of a file of a client's texts, which is read at once; the largest named data set has 4 MB."""

UNPACKED = 100
"""How many times its packed size a file of texts has; prose has 2 to 4 times, a log some 20."""

UNPACKED_BYTES = 2**22
"""Of such a file that may unpack to more: a few repeated lines do no harm."""

JSON_BYTES = 2**26
"""Of a JSON file, or of one line; a summary takes 2 kB an update, so this is for some 30,000."""

VAULT_BYTES = 2**30
"""Of a file of the vault, which is unsealed at once: some 10**8 tokens of one client and round."""

ROUND = 10**6
"""Rounds; a report draws each of them."""

CLIENT = INTEGER
"""A client's number, or that of its node."""

CLIENTS = 10**5
"""Of a federation; each is an object in this process, and a part of the data."""

EXAMPLES = 10**7
"""Of a client; what an attack lists one by one."""

EPOCHS = 10_000
"""Of a client in one round; the positive control trains as long, however little it is sent."""

SECONDS = 10**6
"""Of a client in a round, some 11 days; what waits counts milliseconds in 32 bits."""

TEXT = 2**16
"""Characters of one setting that a server sends; longer is a file in disguise."""

TOKEN = 2**31 - 1
"""A token's id; tokenizers take 32 bits."""

TOKENS = 2**20
"""Of one text; no model here has so many positions."""

GUESS = 2**20
"""Tokens of an attack's guess: a line of a file has all of them, as numbers and as texts."""

GUESSES = 10_000
"""Texts of an attack's guess that are looked at; to pair ten times as many takes half a minute."""

LABELS = 2**16
"""Classes; a head has a row of the model's width for each."""

RANK = 2**12
"""Of LoRA, whose adapters are as large as the model itself from a rank of half its width on."""
