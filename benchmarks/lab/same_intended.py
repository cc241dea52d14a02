"""Differences that are meant: a regular expression for the whole line of one, and why."""

RUN = r"^[^/]+/(?!\S*cells/)\S*"  # a place in no cell of a sweep: cells had samples before
HEADER = "source|assumes|recovers|guarantee|deviations"
LISTED = "list says what the header of a plugin's own file says"
TABLE = "a report has the table of its attacks, from their own headers"
INTENDED = (
    (rf"{RUN}samples\.jsonl\S*: nothing -> ", "every run and every attack writes its samples"),
    (r"stdout: [-+]\.\.\. and \d+ more in \w+\.jsonl$", "texts that are not shown are in samples"),
    (rf"list:stdout\.(attacks|defenses)\.\d+\.({HEADER}): nothing -> ", LISTED),
    (r"/step \d+, list:stdout: ", LISTED),
    (r"list:stdout\.attacks\.\d+\.families: [-+]", "an attack's families in alphabetical order"),
    (r"report/attacks\.csv", TABLE),
    (r"report\.html:table-attacks: nothing -> ", TABLE),
    (r"report\.html:: \+\.wraps td \+ td \{[^}]*\}$", TABLE),  # how it is set
    (r"/errors/round=\d+/", "a plugin's whole traceback is kept in the run"),
    (r"stderr: [-+].* could not run on client \d+: ", "where a plugin raised is said"),
)
