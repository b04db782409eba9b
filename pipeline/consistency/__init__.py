"""How far the utility curves of the groups lie apart: OPIS, its extremes, its shift."""
