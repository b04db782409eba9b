"""Every base loss once more, as plain loops over pairs in double precision.

``s[i][j]`` is the similarity of embedding i to reference j and ``kinds[i][j]`` says what the two
are: 1 a positive pair, -1 a negative one, 0 no pair. For losses with proxies ``s`` holds the
similarities to the proxies and ``kinds`` is 1 at the own one, else -1.
"""

import math


def _of(s, kinds, i, kind):
    return [s[i][j] for j in range(len(s[i])) if kinds[i][j] == kind]


def _mean(values):
    return sum(values) / len(values) if values else 0.0


def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def multi_similarity(s, kinds, alpha=2, beta=50, base=0.5):
    # Wang et al., CVPR 2019, eq. 15 without mining.
    rows = []
    for i in range(len(s)):
        near = [math.exp(-alpha * (x - base)) for x in _of(s, kinds, i, 1)]
        far = [math.exp(beta * (x - base)) for x in _of(s, kinds, i, -1)]
        rows.append(math.log(1 + sum(near)) / alpha + math.log(1 + sum(far)) / beta)
    return _mean(rows)


def supervised_contrastive(s, kinds, temperature=0.1):
    # Khosla et al., NeurIPS 2020, eq. 2: the mean over positives stands outside the logarithm.
    rows = []
    for i in range(len(s)):
        near, far = _of(s, kinds, i, 1), _of(s, kinds, i, -1)
        total = _log_sum_exp([x / temperature for x in near + far])
        if near:
            rows.append(_mean([total - x / temperature for x in near]))
    return _mean(rows)


def contrastive(s, kinds, positive_margin=1.0, negative_margin=0.5):
    near = [positive_margin - x for i in range(len(s)) for x in _of(s, kinds, i, 1)]
    far = [x - negative_margin for i in range(len(s)) for x in _of(s, kinds, i, -1)]
    return _mean([x for x in near if x > 0]) + _mean([x for x in far if x > 0])


def triplet(s, kinds, margin=0.1):
    costs = [
        b - a + margin
        for i in range(len(s)) for a in _of(s, kinds, i, 1) for b in _of(s, kinds, i, -1)
    ]  # fmt: skip
    return _mean([x for x in costs if x > 0])


def infonce(s, kinds, temperature=0.07):
    return _mean([
        _log_sum_exp([x / temperature for x in [a, *_of(s, kinds, i, -1)]]) - a / temperature
        for i in range(len(s)) for a in _of(s, kinds, i, 1)
    ])  # fmt: skip


def circle(s, kinds, margin=0.4, scale=80):
    # Sun et al., CVPR 2020, eq. 6 with O+ = 1 + m, O- = -m, delta+ = 1 - m, delta- = m.
    rows = []
    for i in range(len(s)):
        near = [-scale * max(1 + margin - x, 0) * (x - 1 + margin) for x in _of(s, kinds, i, 1)]
        far = [scale * max(x + margin, 0) * (x - margin) for x in _of(s, kinds, i, -1)]
        if near and far:
            rows.append(_softplus(_log_sum_exp(near) + _log_sum_exp(far)))
    return _mean([row for row in rows if row > 0])


def smooth_ap(s, kinds, temperature=0.01):
    scores = []
    for i in range(len(s)):
        near, far = _of(s, kinds, i, 1), _of(s, kinds, i, -1)
        precisions = []
        for place, x in enumerate(near):
            others = near[:place] + near[place + 1 :]
            among = 1 + sum(_sigmoid((other - x) / temperature) for other in others)
            wrong = sum(_sigmoid((other - x) / temperature) for other in far)
            precisions.append(among / (among + wrong))
        if near:
            scores.append(_mean(precisions))
    return 1 - _mean(scores) if scores else 0.0


def recall_at_k(s, kinds, temperature=0.01, step_temperature=1.0):
    scores = []
    for i in range(len(s)):
        near, far = _of(s, kinds, i, 1), _of(s, kinds, i, -1)
        ranks = []
        for place, x in enumerate(near):
            others = near[:place] + near[place + 1 :] + far
            ranks.append(1 + sum(_sigmoid((other - x) / temperature) for other in others))
        for k in (1, 2, 4, 8, 16):
            found = sum(_sigmoid((k - rank) / step_temperature) for rank in ranks)
            if near:
                scores.append(min(found, k) / min(len(near), k))
    return 1 - _mean(scores) if scores else 0.0


def uss(s, kinds, bias, margin=0.1, scale=64):
    rows = []
    for i in range(len(s)):
        near = [_softplus(bias - scale * (x - margin)) for x in _of(s, kinds, i, 1)]
        far = [_softplus(scale * x - bias) for x in _of(s, kinds, i, -1)]
        rows.append(_mean(near) + sum(far))
    return _mean(rows)


def arcface(s, kinds, margin=28.6, scale=64):
    rows = []
    for i in range(len(s)):
        (own,) = _of(s, kinds, i, 1)
        angle, further = math.acos(max(-1.0, min(1.0, own))), math.radians(margin)
        logit = math.cos(angle + further)
        if angle + further > math.pi:
            logit = own - further * math.sin(further)
        others = [scale * x for x in _of(s, kinds, i, -1)]
        rows.append(_log_sum_exp([scale * logit, *others]) - scale * logit)
    return _mean(rows)


def proxy_anchor(s, kinds, margin=0.1, alpha=32):
    # Kim et al., CVPR 2020, eq. 4: over the proxies that have a positive, and over all.
    near, far = [], []
    for proxy in range(len(s[0])):
        own = [s[i][proxy] for i in range(len(s)) if kinds[i][proxy] == 1]
        rest = [s[i][proxy] for i in range(len(s)) if kinds[i][proxy] == -1]
        if own:
            near.append(math.log(1 + sum(math.exp(-alpha * (x - margin)) for x in own)))
        far.append(math.log(1 + sum(math.exp(alpha * (x + margin)) for x in rest)))
    return _mean(near) + _mean(far)
