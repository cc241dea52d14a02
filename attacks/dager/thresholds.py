"""Every number of DAGER that was tuned or measured: what it parts, whence it is, how far it moves.

Each has what it separates, then *From*: the paper, algebra, or a measurement (model, data, dtype;
seed 1 and float32 unless told). *Chosen* says that it was never measured apart from the whole, and
by what reasoning it is what it is. The word beside a number was measured of all of them in one run
(benchmarks/dager/sensitivity.py): the number times 0.7 and times 1.4, all others as they are, on
those small updates of benchmarks/dager/regimes.py that read it (tiny GPT-2, LLaMA and BERT, random;
GPT-2 of widths 512 and 768, random; MiniLM and stories260K, trained; float32 and casts; seed 1):

    free    no guess changes            down    at 0.7 none does, at 1.4 one at least
    tight   guesses change at both      up      at 1.4 none does, at 0.7 one at least
    unread  none of those reads it      *       (besides) where no update is steady

An update is steady where another seed of the attack's own draws changes no guess; those of int8 and
of noise are not, where true and false overlap.
The guesses are in benchmarks/results/dager_sensitivity.json, and so is where only work grows.
**Chosen on texts that are also evaluated.** Those marked (*) were picked while looking at batches
of the very data sets that the defenses' table then reports under int8 and bfloat16 (SST-2, CoLA,
the clinic; tiny GPT-2, random; six batches each), and WIDE_SPARE (as it seems SURE and APART, too)
on the Rotten Tomatoes deltas of the FedAvg table (GPT-2, random). What they read of texts that were
never looked at is measured by benchmarks/dager/unseen.py.

"GPT-2" without "tiny" is that of real size (d = 768) with random weights. Limits that a user may
set are fields of Dager; weight decay's numbers are in attacks/reads/decay.py. Guards against a
division by zero are no thresholds and stand where they act.
"""

# gates.py: from where on a token is outside (equation 2's tau_1 and tau_2)

# Random tokens whose median distance is that of unrelated ones. From: algebra, a
# median of 512 is off by 1.25 / sqrt(512) = 6 % of their spread.
RANDOM_TOKENS = 512  # free*
# tau_1 and tau_2, over the distance that noise should give an input, which is right within a factor
# of 1.4 (GPT-2). From: chosen, far above that; algorithm 2 sorts out tau_1's surplus, nothing
# tau_2's, so that it is the smaller.
ENTRY_FACTOR = 100.0  # free
INNER_FACTOR = 16.0  # tight
# Times that where a block runs again (ALBERT, tiny). From: CoLA's true tokens 1.6, unrelated 600.
SHARED = 3.0  # unread
# (*) Of an unrelated vector's distance: tau_1 of a decoder where noise drowns a gradient's weak
# tokens. From: casts, tiny GPT-2; algorithm 2 looks closer, so a surplus costs work alone.
LOOSE = 0.7  # free*
# Of an unrelated vector's distance: the threshold where noise is not known. From: chi-square; of 40
# dimensions left, one in a million unrelated vectors comes as close as 0.5.
SHARE = 0.4  # down*

# span.py: what lies in a span

# Distances below it are never told apart. From: float32 hidden states differ by 1e-6 from one order
# of summation to another; chosen as a hundred of those.
RESOLUTION = 1e-4  # free

# spectrum.py: signal and noise of a gradient (theorem 5.1)

# Dimensions kept free of signal, to tell noise by; an eighth of few. From: the paper's Delta_b, the
# best of 10, 20, 40, 80 (fig. 3, GPT-2); the eighth is chosen, for widths and ranks below 160.
SPARE = 20  # free*
SPARE_PART = 8  # free*
# (*) times SPARE dimensions stay out of a drifting span. From: FedAvg deltas of GPT-2, Rotten
# Tomatoes, B = 16: true inputs come closer up to the last direction.
WIDE_SPARE = 2  # free
# Noise reaches up to this many times its level at SPARE. From: 3 to 8 were measured (of what
# gradients is no longer known); chosen above.
EDGE = 10.0  # free*
# (*) A gap as wide as that is one, however far above the noise. From: chosen, EDGE cubed.
HUGE_GAP = 1000.0  # free
# A gap is looked for up to so many levels of noise. From: chosen, EDGE squared.
NEAR_NOISE = 100.0  # free
# (*) Noise is flat where the value at three times SPARE is within this factor (its square) of the
# level; then no gap far above it counts. From: int8 on tiny GPT-2.
RISE_AT = 3  # free
RISE = 2.0  # free
# Of the level: where the last value of all is below it, inputs fill all dimensions. From: tiny
# GPT-2, 193 to 445 prefixes of D = 192: 0 to 0.45; rounding's, int8's and bfloat16's: 0.59 to 0.8.
# LLaMA's with 446 has 0.55: so many look like noise.
EVEN_LAST = 0.5  # unread
# (*) times the level: weaker directions are dropped where no gap shows the rank. From: iid noise,
# K = 3 D: half to three quarters of its directions are stronger, the strongest 2.5 to 3.3.
BULK = 1.5  # free*
# Signal's last singular value over noise's first. From: chosen; noise falls smoothly, neighbouring
# values differ by far less.
GAP = 2.5  # down*
# Machine epsilons of the largest singular value: the least noise; of float64, more of them. From:
# chosen, below the rounding of any gradient, for updates without noise (one token).
ROUNDING = 1 / 256  # free
ROUNDING_64 = 4.0  # free
# Dimensions from which a part is tried first, and which parts: a fifth, a third, a half. From:
# chosen for speed; the guesses do not hang on it, as a part that shows no gap is given up.
LARGE = 512  # free
PARTS = (5, 3, 2)  # free
# Random mixtures that tell what such a part leaves out. From: chosen with EVEN.
PROBES = 32  # free
# Of those, the largest singular value over the least. From: of noise 1.9 to 2.9, where inputs are
# left out 3.1 and more (of what gradients is no longer known).
EVEN = 3.0  # free
# What the root mean square of iid noise is over its level at SPARE. From: algebra, K = 3 D.
RANGE_LEVEL = 2.0  # free*
# A random range is off by noise, too: true inputs are farther. From: 2.5 times was measured.
RANGE_NOISE = 2.0  # free
# Values of an integer of eight bits: a gradient of no more was rounded to steps. From: the format.
LEVELS = 256  # free
# Entries that tell whether it is one. From: chosen; a float gradient repeats next to none.
STEPPED = 4096  # free

# inputs.py: LoRA's adapters

# Of an encoder, of the largest rank: an adapter whose span has less has lost inputs. From: chosen;
# rounding may hide a weak input from one of q, k and v. (Of a decoder it must have all of it.)
WHOLE_RANK = 0.9  # free

# tokens.py: algorithm 1 at a price of one position

# Directions of the coarse filter, of prefixes.py, too: distances are 25 % off, sqrt(2 / 32). From:
# GPT-2, Rotten Tomatoes, B = 16: of 124,994 pairs 32 directions kept the 467 true ones alone.
SKETCH = 32  # free*
# Positions done at a time. From: memory, V x 16 numbers are held.
POSITIONS = 16  # free
# The estimate keeps what is below this many thresholds: two of a sketch's errors. From: chosen.
TOKEN_MARGIN = 1.5  # free
# The least threshold of the estimate. From: float32's sum tells no less than 3e-4; ten times that.
TOKEN_FLOOR = 3e-3  # free
# Of unrelated tokens' distance: below it, bounds of the norm's scale will do, and fewer directions.
# From: chosen for speed.
NARROW = 0.1  # free
NARROW_SKETCH = 16  # free

# Tokens of the vocabulary that a model is run on at a time. From: memory.
RUN_TOKENS = 4096  # unread

# prefixes.py: algorithm 2 without running the block

# Attention weights, and pairs, held at a time. From: memory, 32 MB of weights.
WEIGHTS = 8_000_000  # free
PAIRS = 1024  # free
# Random directions that measure a hidden state's norm: 9 % off. From: algebra, sqrt(1 / 128).
RULERS = 64  # free*
# The sketch keeps what is below this many thresholds, and this much at least. From: chosen as in
# tokens.py; the norm's error adds to the sum's.
PREFIX_MARGIN = 1.5  # free
PREFIX_FLOOR = 1e-2  # free
# A norm's scale is within this factor of its estimate: three of RULERS' errors. From: algebra.
SLACK = 1.3  # unread
# Directions where noise is not known. From: algebra, the whole complement of a drifting span, where
# 2 SPARE are left.
VAGUE_SKETCH = 64  # free*

# search.py: which continuations stand out where noise is not known

# (*) Prefixes kept for each example that the client states, and for how many at least, where inputs
# do not drift. From: int8 on tiny GPT-2, SST-2, CoLA, clinic.
CROWD = 2  # free*
CROWD_EXAMPLES = 2  # free*
# What computing a pair in full costs, in pairs that the sketch discards. From: algebra and a guess:
# the full width takes d^2 = 590 k products, the sketch some 60 k at position 50; twice that ratio.
IN_FULL = 20  # free
# Of SHARE's threshold, of deltas: what is closer goes on. From: FedAvg deltas (those of WIDE_SPARE,
# as it seems), learning rates up to 1e-3: true tokens 0.03 at most, others 0.7 at least.
SURE = 0.1  # down
# Prefixes for each input that a clear span shows: with more the search ends. From: algebra, true
# ones are one for each; chosen above, for tokens that have a twin here or there.
EXPLODED = 4.0  # unread
# How much farther than a prefix's true continuations all others are, of deltas. From: as SURE.
APART = 2.0  # free
# How much farther than most (that quantile) of those so far a continuation may be. From: chosen, so
# that one gap that is missing does not let all others in.
OFF = 10.0  # free
OFF_QUANTILE = 0.9  # free
# (*) The same three where inputs do not drift: there true and false overlap, and the median is
# taken. From: int8, six batches each of SST-2, CoLA, clinic, tiny GPT-2.
STILL = 0.2  # free*
STILL_APART = 1.6  # up*
STILL_OFF = 6.0  # free*

# Pairs of one position among which tokens that are embedded alike are looked for, closest first.
# From: memory, that many squared.
TWINS = 4096  # unread

# endings.py: where sequences end

# Of a gradient's square: what prefixes must explain for ends to be looked for. From: chosen.
ROUGHLY = 0.9  # free*
# A loud end's share of the loudest. From: other prefixes of FedAvg deltas have 0.2 at most.
LOUD = 0.3  # free*
# An end's share of the largest end's. From: others have 1e-5 (float32 gradients).
QUIET = 1e-2  # free
# How far above the noise the weakest input is from where on none can be hidden in it. From: chosen;
# GPT-2's gradients, Rotten Tomatoes, have 5e3 to 2e5.
FAINT = 100.0  # unread
# Times what is left unexplained: how far off what comes back may be. From: tiny GPT-2, trained,
# where texts that had vanished were left, it was up to 2; chosen above.
DOUBT = 10.0  # unread

# Of the inputs of a sequence beyond the examples stated: those that no other one has, at least.
# From: chosen; false ones differ from another in their last tokens, texts in all but the first.
FRESH = 0.5  # unread

# following.py: what followed each prefix of a next-token loss

# Of the tokens' shares of the loss: so many must be whole numbers of the unit, and within this.
# From: chosen; what follows with near certainty is only roughly read.
NEARLY_ALL = 0.9  # free
WHOLE_SHARE = 0.1  # free
# Tokens that follow one prefix, and parts of a unit, at most. From: chosen, a limit of work.
FOLLOWERS = 64  # free
# The nearest last token is taken if it is nearer than this share of the second's distance. From:
# chosen; a true one is off by rounding alone.
NEARER = 0.5  # unread
# Of a prefix's gradient: what may be left when the tokens that follow are known. From: chosen.
REST = 2e-2  # free

# counts.py: how often each sentence was there

# Examples up to which they are counted. From: chosen, a limit of work.
MOST_EXAMPLES = 1024  # free
# Where one example's share is not known: examples that the clearest text is thought to stand for,
# and ways to give them labels, at most. From: chosen, limits of what is tried.
REPEATS = 4  # free
SPLITS = 500  # unread
# Shares that are tried, times examples, times labels, at most; and entries held at a time. From:
# chosen, limits of work and memory: the most of 30 labels, 500 shares of 1,024 examples, are 15 M.
COUNTING = 50_000_000  # unread
COUNTED = 100_000  # unread
# Times doubt: what came back to a text that may not have been there. From: tiny LLaMA, trained: a
# text that vanished looked like [BOS] alone, at 1.2 times; chosen above.
STANDS_OUT = 100.0  # unread
# How far off a float32 state may be, of its length. From: label probabilities of tiny GPT-2,
# trained, were off by what 7e-6 makes of them.
STATES = 1e-5  # unread
# Epsilons of float32: how far off a client's p - y may be. From: algebra, half of one, and as much
# of a sum.
LOSS = 2.0  # unread
# Of a gradient's square: what rounding leaves unexplained, of float32 and, in epsilons squared, of
# shorter floats. From: chosen, above float32's 1e-14 for what a model's own rounding adds.
UNEXPLAINED = 1e-6  # free
UNEXPLAINED_EPS = 30  # free

# encoder/attention.py: equations of one query

# Empty positions in a row after which no sentence is thought to go on. From: chosen.
LOOK = 8  # free
# Random mixtures of all equations, at most. From: chosen, a limit of work, above any sentence.
EQUATIONS = 512  # free
# How far directions in which tokens differ little are evened out: 0 is fully. From: chosen.
EVENED = 0.1  # free

# encoder/nonnegative.py: least squares under w >= 0

# Columns that enter at a time, how often, and pivots of one problem. From: chosen, limits of work.
COLUMNS = 96  # free
ROUNDS = 12  # free
PIVOTS = 5000  # free
# Least gain of a column that enters, of the target's length. From: 1e-4 lost sentences.
ENTER = 1e-6  # free

# encoder/search.py: a sentence's tokens among all candidates

# (token, position) pairs at most. From: memory, 0.5 GB.
CANDIDATES = 20_000  # free
# Gauss-Newton steps. From: 5 to 9 were enough from a true query.
STEPS = 12  # free
# A change of the weights below it is none. From: chosen; true weights end at 0.9 and more.
SETTLED = 0.02  # free
# Queries on the way to one sentence. From: chosen, a limit of work.
DEPTH = 4  # free
# Of the first misfit: what may be left. From: a false query keeps more, a mixture has 0.02.
MISFIT = 0.15  # free
# Solves without a sentence. From: where noise allows any, 10 were the most (BERT, deltas).
PATIENCE = 60  # free
# And once there are as many sentences as the client states. From: chosen.
ENOUGH = 8  # free
# Candidates times solves. From: sixteen sentences took 180,000.
EFFORT = 300_000  # free
# The least weight of a token alone at its place. From: true ones have 0.9 and more.
CLEAR = 0.8  # free
# Tokens of a sentence, with its specials. From: [CLS] and [SEP] (an empty text).
SHORTEST = 2  # free
# Of a found sentence's tokens: those that may not explain the next. From: chosen.
LEFT_OUT = 0.5  # free
# The power of a weight by which the next query is drawn. From: chosen.
SHARPNESS = 4  # free

# encoder/witness.py: what bears a sentence out

# How much farther than a true token another at its place is. From: chosen as APART, for BERT's
# deltas.
WITNESS_APART = 2.0  # free
# Tokens looked at in all. From: chosen, a limit of work: of BERT-tiny one core reads 1 M in 12 s.
WITNESSED = 4_000_000  # unread
# Tokens looked at at a time. From: memory.
WITNESS_PART = 4096  # free

# encoder/ordering.py: sentences of tokens whose places attention alone tells

# Descents to an order, and changes looked at together. From: chosen, limits of work.
STARTS = 8  # unread
CHANGES = 48  # unread
# How far off a sure order's nearest change is. From: true ones 3.5, wrong ones 1.01: its header.
ORDER_APART = 2.0  # unread
# Over what noise gives: a sentence that is likely. From: true ones 0.34, as there; for work alone.
LIKELY = 0.5  # unread
