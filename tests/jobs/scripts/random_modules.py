import collections
import decimal
import fractions
import itertools
import statistics

print(decimal.Decimal("1.10") + 1, fractions.Fraction(1, 3), statistics.mean([1, 2, 4]))
print(list(itertools.pairwise("abc")), collections.Counter("abca").most_common(1))
